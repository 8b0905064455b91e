/* The OpenAPI document: routes and fields from their tables. */
#include "serve/serve_int.h"

#include <string.h>

static json_t *operation(const route *r) {
    json_t *o = json_pack("{s:s,s:{s:{s:s},s:{s:s}}}", "summary", r->summary, "responses", "200", "description", "done",
                          "default", "description", "an error: {\"error\": {message, type, param, code}}");
    if (strchr(r->path, '{'))
        json_object_set_new(o, "parameters",
                            json_pack("[{s:s,s:s,s:b,s:{s:s}}]", "name", "id", "in", "path", "required", 1, "schema",
                                      "type", "string"));
    if (r->body)
        json_object_set_new(o, "requestBody",
                            json_pack("{s:b,s:{s:{s:o}}}", "required", 1, "content", "application/json", "schema",
                                      field_schema(r->body)));
    return o;
}

json_t *openapi_document(void) {
    json_t *paths = json_object();
    for (const route *r = serve_routes; r->path; r++) {
        json_t *item = json_object_get(paths, r->path);
        if (!item) {
            item = json_object();
            json_object_set_new(paths, r->path, item);
        }
        json_object_set_new(item, strcmp(r->method, "GET") == 0 ? "get" : "post", operation(r));
    }
    return json_pack("{s:s,s:{s:s,s:s},s:o,s:{s:{s:{s:s,s:s}}},s:[{s:[]}]}", "openapi", "3.0.3", "info", "title",
                     "flambeau", "version", fl_version(), "paths", paths, "components", "securitySchemes", "key",
                     "type", "http", "scheme", "bearer", "security", "key");
}
