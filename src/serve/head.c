#include "serve/head.h"

#include <string.h>
#include <strings.h>

static bool is_token(const char *s) {
    if (!*s) return false;
    for (; *s; s++)
        if (!strchr("!#$%&'*+-.^_`|~", *s) && !(*s >= '0' && *s <= '9') && !((*s | 32) >= 'a' && (*s | 32) <= 'z'))
            return false;
    return true;
}

/* The next line, ended by CR LF, as a string; NULL when there is none or it holds a CR, LF or NUL of its own. */
static char *next_line(char **at, char *end) {
    char *line = *at, *lf = memchr(line, '\n', (size_t)(end - line));
    if (!lf || lf == line || lf[-1] != '\r') return NULL;
    lf[-1] = '\0';
    *at = lf + 1;
    return strlen(line) == (size_t)(lf - 1 - line) && !strchr(line, '\r') ? line : NULL;
}

static int read_request_line(http_head *h, char *line, const char **why) {
    char *path = strchr(line, ' '), *version = path ? strchr(path + 1, ' ') : NULL;
    *why = "The request line must be METHOD PATH HTTP/1.1.";
    if (!version) return 400;
    *path++ = *version++ = '\0';
    if (!is_token(line) || path[0] != '/') return 400;
    for (const char *p = path; *p; p++)
        if (*p <= ' ' || *p >= 0x7f) return 400;
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0) return 400;
    h->is_1_0 = version[7] == '0';
    h->keep_alive = !h->is_1_0;
    char *query = strpbrk(path, "?#");
    if (query) *query = '\0';
    h->method = line;
    h->path = path;
    return 0;
}

static int read_length(http_head *h, const char *value, const char **why) {
    *why = "Content-Length must stand once, as digits.";
    size_t n = strspn(value, "0123456789");
    if (h->has_length || n == 0 || n > 18 || value[n] != '\0') return 400;
    h->has_length = true;
    for (; *value; value++) h->content_length = h->content_length * 10 + (uint64_t)(*value - '0');
    return 0;
}

static int note_field(http_head *h, const char *name, const char *value, const char **why) {
    if (strcasecmp(name, "content-length") == 0) return read_length(h, value, why);
    if (strcasecmp(name, "transfer-encoding") == 0) {
        *why = "Transfer-Encoding is not taken; send the body with Content-Length.";
        return 411;
    }
    if (strcasecmp(name, "content-encoding") == 0 && strcasecmp(value, "identity") != 0) {
        *why = "Content-Encoding is not taken; send the body as it is.";
        return 415;
    }
    if (strcasecmp(name, "host") == 0) {
        *why = "Host must stand once.";
        if (h->host) return 400;
        h->host = value;
    }
    if (strcasecmp(name, "connection") == 0) {
        if (strcasestr(value, "close")) h->keep_alive = false;
    }
    if (strcasecmp(name, "expect") == 0) {
        *why = "Of Expect only 100-continue is known.";
        if (strcasecmp(value, "100-continue") != 0) return 417;
        h->expects_continue = true;
    }
    return 0;
}

static int read_field(http_head *h, char *line, const char **why) {
    *why = "A header line must be NAME: VALUE, without blanks before the colon, folding or control characters.";
    char *colon = strchr(line, ':');
    if (!colon) return 400;
    *colon = '\0';
    char *value = colon + 1 + strspn(colon + 1, " \t");
    size_t n = strlen(value);
    while (n > 0 && (value[n - 1] == ' ' || value[n - 1] == '\t')) value[--n] = '\0';
    if (!is_token(line)) return 400;
    for (const char *p = value; *p; p++)
        if (((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f) return 400;
    if (h->n_fields == HEAD_FIELDS_MAX) {
        *why = "The request has too many header fields.";
        return 431;
    }
    h->fields[h->n_fields++] = (head_field){line, value};
    return note_field(h, line, value, why);
}

int http_head_read(http_head *h, char *bytes, size_t n, const char **why) {
    *h = (http_head){.method = "", .path = ""};
    char *at = bytes, *end = bytes + n, *line = next_line(&at, end);
    *why = "The head of the request is malformed; lines end with CR LF.";
    if (!line) return 400;
    int status = read_request_line(h, line, why);
    while (status == 0) {
        *why = "The head of the request is malformed; lines end with CR LF.";
        if (end - at >= 2 && at[0] == '\r' && at[1] == '\n') break;
        line = next_line(&at, end);
        status = line ? read_field(h, line, why) : 400;
    }
    if (status == 0 && !h->host) {
        *why = "The request has no Host.";
        return 400;
    }
    return status;
}

const char *http_head_find(const http_head *h, const char *name) {
    for (uint32_t i = 0; i < h->n_fields; i++)
        if (strcasecmp(h->fields[i].name, name) == 0) return h->fields[i].value;
    return NULL;
}
