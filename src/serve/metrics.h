/* serve/metrics.h - what /metrics shows, in the Prometheus text format under the names that dashboards know (vllm:).
 *
 * Threads: the loop's alone; scraping takes no lock of the engine.
 */
#ifndef SERVE_METRICS_H
#define SERVE_METRICS_H

#include "base/buf.h"
#include "flambeau.h"

enum { METRICS_BUCKETS_MAX = 24, METRICS_HANDLERS_MAX = 24, METRICS_STATUSES_MAX = 20 };

typedef struct {
    uint64_t count, buckets[METRICS_BUCKETS_MAX];
    double sum;
    const double *bounds;
    uint32_t n_bounds;
} metrics_histogram;

typedef struct {
    metrics_histogram first_token, between_tokens, whole, queue, prefill, decode, prompt_tokens, output_tokens;
    uint64_t finished[5];                                       /* by fl_finish */
    uint64_t calls[METRICS_HANDLERS_MAX][METRICS_STATUSES_MAX]; /* by route and status */
    uint64_t n_dropped;                                         /* readers that were too slow */
} serve_metrics;

void metrics_init(serve_metrics *m);
void metrics_observe(metrics_histogram *h, double x);
void metrics_call(serve_metrics *m, uint32_t handler, int status);
void metrics_end(serve_metrics *m, const fl_request_stats *stats, fl_finish finish); /* stats NULL: not known */

/* handlers: "METHOD path" by number, the last of n for everything else. */
void metrics_print(const serve_metrics *m, fl_engine *e, const char *model, const char *const *handlers, uint32_t n,
                   uint32_t n_connections, base_buf *b);

#endif
