#include "hub/blob.h"

#include "base/mem.h"
#include "base/sha1.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { JOURNAL_MAX = 64 << 20, HASH_BYTES = 1 << 20, WRONG_TRIES = 2, RUNS_PER_LANE = 4, RUN_MAX = 32 };
#define SYNC_EVERY_S 0.5

/* PART_LANDED: all bytes were written, not synced yet. */
typedef enum { PART_WANTED, PART_RUNNING, PART_LANDED, PART_DONE } part_state;
typedef enum { LANE_IDLE, LANE_WAITING, LANE_RUNNING } lane_state;

typedef struct blob blob;

typedef struct {
    hub_net_request request;
    blob *b;
    lane_state state;
    size_t part, n_parts, n_landed; /* a run of parts, fetched by one request */
    uint64_t got, before;           /* bytes of the run; when this try began */
    uint32_t failures;
    double not_before;
    fl_status bad; /* the answer is no use (words in request.why), or the disk refused */
} lane;

struct blob {
    const hub_blob_job *job;
    int fd, journal;
    bool whole; /* one part, one stream */
    bool want_whole;
    uint64_t part_bytes;
    size_t n_parts, n_done;
    unsigned char *state; /* part_state of each */
    uint64_t done_bytes;  /* of parts landed or done */
    double synced_s;
    lane *lanes;
};

/* Bytes of n parts from i on. */
static uint64_t run_size(const blob *b, size_t i, size_t n) {
    uint64_t at = i * b->part_bytes, size = n * b->part_bytes;
    return b->job->bytes - at < size ? b->job->bytes - at : size;
}

static uint64_t part_size(const blob *b, size_t i) { return run_size(b, i, 1); }

/* ---- the two files ---------------------------------------------------------------------- */

static int open_file(const char *stem, const char *suffix, int flags) {
    base_buf path = {0};
    int fd = -1;
    errno = ENOMEM;
    if (base_buf_printf(&path, "%s%s", stem, suffix)) fd = open(path.data, flags | O_NOFOLLOW | O_CLOEXEC, 0666);
    int why = errno;
    base_buf_clear(&path);
    errno = why;
    return fd;
}

/* Without memory for its path a file is not opened; that is no fault of the disk. */
static fl_status code_of(int why) { return why == ENOMEM ? FL_ENOMEM : FL_EIO; }

static void journal_head(const blob *b, char line[64]) {
    snprintf(line, 64, "parts %llu %llu\n", (unsigned long long)b->job->bytes, (unsigned long long)b->part_bytes);
}

static bool write_all(int fd, const char *bytes, size_t n, uint64_t at) {
    while (n > 0) {
        ssize_t k = pwrite(fd, bytes, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return false;
        bytes += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return true;
}

/* Appends: the journal is at its end or was just emptied. */
static bool append(int fd, const char *text, size_t n) {
    off_t end = lseek(fd, 0, SEEK_END);
    return end >= 0 && write_all(fd, text, n, (uint64_t)end);
}

/* Marks what the journal says is done; a last line that was cut off does not count. False: start over. */
static bool replay(blob *b, const char *text, size_t n) {
    char head[64];
    journal_head(b, head);
    size_t n_head = strlen(head);
    if (n < n_head || memcmp(text, head, n_head) != 0) return false;
    for (size_t at = n_head; at + 9 <= n; at += 9) {
        char line[9];
        memcpy(line, text + at, 8);
        line[8] = '\0';
        if (text[at + 8] != '\n' || strspn(line, "0123456789abcdef") != 8) return false;
        size_t i = strtoul(line, NULL, 16);
        if (i >= b->n_parts || b->state[i] == PART_DONE) continue;
        b->state[i] = PART_DONE;
        b->n_done++;
        b->done_bytes += part_size(b, i);
    }
    /* A torn line would put all later ones out of step. */
    return (n - n_head) % 9 == 0 || ftruncate(b->journal, (off_t)(n - (n - n_head) % 9)) == 0;
}

static FL_CHECKED fl_status forget_parts(blob *b, fl_err *err) {
    char head[64];
    memset(b->state, PART_WANTED, b->n_parts);
    b->n_done = 0;
    b->done_bytes = 0;
    journal_head(b, head);
    if (ftruncate(b->journal, 0) == 0 && write_all(b->journal, head, strlen(head), 0) && fsync(b->journal) == 0)
        return FL_OK;
    return fl_fail(err, FL_EIO, "%s.journal cannot be written: %s", b->job->stem, strerror(errno));
}

static FL_CHECKED fl_status read_journal(blob *b, fl_err *err) {
    struct stat st;
    if (fstat(b->journal, &st) != 0 || st.st_size > JOURNAL_MAX || st.st_size == 0) return forget_parts(b, err);
    size_t n = (size_t)st.st_size;
    char *text = base_malloc(n);
    if (!text) return fl_fail(err, FL_ENOMEM, "a journal of %zu bytes", n);
    bool ok = pread(b->journal, text, n, 0) == (ssize_t)n && replay(b, text, n);
    base_free(text);
    return ok ? FL_OK : forget_parts(b, err);
}

static FL_CHECKED fl_status open_files(blob *b, fl_err *err) {
    const hub_blob_job *j = b->job;
    struct stat st;
    b->fd = open_file(j->stem, ".part", O_RDWR | O_CREAT);
    if (b->fd >= 0) b->journal = open_file(j->stem, ".journal", O_RDWR | O_CREAT);
    if (b->fd < 0 || b->journal < 0 || fstat(b->fd, &st) != 0)
        return fl_fail(err, code_of(errno), "%s.part cannot be written: %s", j->stem, strerror(errno));
    if (!S_ISREG(st.st_mode)) return fl_fail(err, FL_EIO, "%s.part is no regular file", j->stem);
    bool fits = (uint64_t)st.st_size == j->bytes;
    if (!fits && ftruncate(b->fd, 0) != 0) return fl_fail(err, FL_EIO, "%s.part: %s", j->stem, strerror(errno));
    int e = j->bytes ? posix_fallocate(b->fd, 0, (off_t)j->bytes) : 0;
    if (e != 0) {
        (void)!ftruncate(b->fd, 0); /* give the room back */
        return fl_fail(err, FL_EIO, "no room for %llu bytes at %s: %s", (unsigned long long)j->bytes, j->stem,
                       strerror(e));
    }
    return fits ? read_journal(b, err) : forget_parts(b, err);
}

/* What has landed reaches the disk, then the journal says so. */
static FL_CHECKED fl_status sync_parts(blob *b, fl_err *err) {
    base_buf lines = {0};
    bool any = false;
    for (size_t i = 0; i < b->n_parts; i++) {
        if (b->state[i] != PART_LANDED) continue;
        any = true;
        (void)base_buf_printf(&lines, "%08zx\n", i);
    }
    b->synced_s = base_now();
    bool ok = !any || (!lines.failed && fdatasync(b->fd) == 0 && append(b->journal, lines.data, lines.len) &&
                       fsync(b->journal) == 0);
    int why = lines.failed ? ENOMEM : errno;
    base_buf_clear(&lines);
    if (!ok) return fl_fail(err, code_of(why), "%s.part cannot be written: %s", b->job->stem, strerror(why));
    for (size_t i = 0; any && i < b->n_parts; i++)
        if (b->state[i] == PART_LANDED) b->state[i] = PART_DONE;
    return FL_OK;
}

/* ---- one part --------------------------------------------------------------------------- */

static bool refuse(lane *l, fl_status why, const char *words) {
    l->bad = why;
    snprintf(l->request.why, sizeof l->request.why, "%s", words);
    return false;
}

/* Whether the answer is about the bytes that were asked for. */
static bool answer_fits(lane *l) {
    const hub_net_request *r = &l->request;
    uint64_t all = l->b->job->bytes;
    if (r->status == 200) {
        bool from_start = !r->ranged || (l->b->n_parts == 1 && l->got == 0);
        if (r->length != HUB_NET_UNKNOWN && r->length != all)
            return refuse(l, FL_EFORMAT, "the server's file has another length than the hub says");
        if (!from_start) l->b->want_whole = true;
        return from_start;
    }
    if (!r->ranged || !r->has_range) return refuse(l, FL_EFORMAT, "the server does not say which bytes it sends");
    if (r->range_total != all) return refuse(l, FL_EFORMAT, "the server's file has another length than the hub says");
    if (r->range_first != r->first || r->range_last > r->last || r->range_last < r->first)
        return refuse(l, FL_EFORMAT, "the server sends other bytes than those asked for");
    return true;
}

static bool take(hub_net_request *r, const char *bytes, size_t n) {
    lane *l = r->user;
    blob *b = l->b;
    if (l->got == l->before && !answer_fits(l)) return false;
    if (n > run_size(b, l->part, l->n_parts) - l->got)
        return refuse(l, FL_EFORMAT, "the server sends more bytes than asked for");
    if (!write_all(b->fd, bytes, n, l->part * b->part_bytes + l->got)) {
        char words[120];
        snprintf(words, sizeof words, "the disk refused: %s", strerror(errno));
        return refuse(l, FL_EIO, words);
    }
    l->got += n;
    while (l->n_landed < l->n_parts && l->got >= run_size(b, l->part, l->n_landed + 1)) {
        size_t i = l->part + l->n_landed++;
        b->state[i] = PART_LANDED;
        b->done_bytes += part_size(b, i);
        b->n_done++;
    }
    return true;
}

static FL_CHECKED fl_status start(lane *l, fl_err *err) {
    blob *b = l->b;
    hub_net_request *r = &l->request;
    uint64_t at = l->part * b->part_bytes, size = run_size(b, l->part, l->n_parts);
    if (b->whole) l->got = 0;
    snprintf(r->url, sizeof r->url, "%s", b->job->url);
    r->ranged = !b->whole && (b->n_parts > 1 || l->got > 0);
    r->first = at + l->got;
    r->last = at + size - 1;
    r->sink = take;
    r->user = l;
    l->before = l->got;
    l->bad = FL_OK;
    l->state = LANE_RUNNING;
    return hub_net_start(b->job->net, r, err);
}

static void stop(lane *l) {
    if (l->state == LANE_RUNNING) hub_net_stop(l->b->job->net, &l->request);
    for (size_t i = l->n_landed; l->state != LANE_IDLE && i < l->n_parts; i++) l->b->state[l->part + i] = PART_WANTED;
    l->state = LANE_IDLE;
    l->got = l->n_landed = l->n_parts = 0;
}

/* The next parts that are wanted, as one run: the more parts, the longer, or a hub would count too many requests. */
static bool assign(lane *l, size_t *next) {
    blob *b = l->b;
    size_t most = b->n_parts / (RUNS_PER_LANE * HUB_BLOB_LANES);
    most = most < 1 ? 1 : most > RUN_MAX ? RUN_MAX : most;
    while (*next < b->n_parts && b->state[*next] != PART_WANTED) ++*next;
    l->part = *next;
    l->failures = 0;
    l->got = l->n_landed = l->n_parts = 0;
    for (; l->n_parts < most && *next < b->n_parts && b->state[*next] == PART_WANTED; ++*next, l->n_parts++)
        b->state[*next] = PART_RUNNING;
    return l->n_parts > 0;
}

/* The server does not do ranges: one part and one stream from here on. */
static FL_CHECKED fl_status go_whole(blob *b, fl_err *err) {
    for (size_t i = 0; i < HUB_BLOB_LANES; i++) stop(&b->lanes[i]);
    b->want_whole = false;
    b->whole = true;
    b->n_parts = 1;
    b->part_bytes = b->job->bytes;
    return forget_parts(b, err);
}

static FL_CHECKED fl_status finish(lane *l, fl_err *err) {
    blob *b = l->b;
    hub_net_request *r = &l->request;
    if (b->want_whole) return go_whole(b, err);
    if (l->n_landed == l->n_parts) {
        l->state = LANE_IDLE;
        return FL_OK;
    }
    bool progress = l->got > l->before && !b->whole;
    l->failures = progress ? 1 : l->failures + 1;
    if (l->bad == FL_EIO) return fl_fail(err, FL_EIO, "%s", r->why);
    if (!hub_net_transient(r) || l->failures >= (l->bad ? WRONG_TRIES : HUB_NET_TRIES)) {
        if (l->bad) return fl_fail(err, l->bad, "%s", r->why);
        if (r->whole && (r->status == 200 || r->status == 206))
            return fl_fail(err, FL_EFORMAT, "the server sends fewer bytes than it should");
        return hub_net_failed(r, err);
    }
    l->not_before = base_now() + hub_net_backoff_s(r, progress ? 0 : l->failures - 1);
    l->state = LANE_WAITING;
    return FL_OK;
}

/* Gives idle lanes parts and lets waiting ones go on. */
static FL_CHECKED fl_status drive(blob *b, size_t *next, fl_err *err) {
    double now = base_now();
    fl_status st = FL_OK;
    for (size_t i = 0; i < HUB_BLOB_LANES && st == FL_OK; i++) {
        lane *l = &b->lanes[i];
        if (l->state == LANE_IDLE) {
            if (assign(l, next)) st = start(l, err);
        } else if (l->state == LANE_WAITING && now >= l->not_before) {
            st = start(l, err);
        }
    }
    return st;
}

static FL_CHECKED fl_status run(blob *b, fl_err *err) {
    size_t next = 0;
    while (b->n_done < b->n_parts) {
        fl_status st = drive(b, &next, err);
        hub_net_request *r = st == FL_OK ? hub_net_step(b->job->net, 100) : NULL;
        if (r) {
            lane *l = r->user;
            bool was_whole = b->whole;
            st = finish(l, err);
            if (b->whole != was_whole) next = 0;
        }
        if (st == FL_OK && base_now() - b->synced_s >= SYNC_EVERY_S) st = sync_parts(b, err);
        uint64_t done = b->done_bytes;
        for (size_t i = 0; i < HUB_BLOB_LANES; i++) {
            const lane *l = &b->lanes[i];
            if (l->state != LANE_IDLE) done += l->got - run_size(b, l->part, l->n_landed);
        }
        if (st == FL_OK && b->job->tick && !b->job->tick(b->job->user, done))
            st = fl_fail(err, FL_ECANCELED, "interrupted");
        if (st != FL_OK) return st;
    }
    return FL_OK;
}

fl_status hub_blob_fetch(const hub_blob_job *job, fl_err *err) {
    blob b = {.job = job, .fd = -1, .journal = -1, .part_bytes = HUB_BLOB_PART_BYTES, .synced_s = base_now()};
    b.n_parts = (size_t)((job->bytes + HUB_BLOB_PART_BYTES - 1) / HUB_BLOB_PART_BYTES);
    b.state = base_calloc(b.n_parts ? b.n_parts : 1, 1);
    b.lanes = base_calloc(HUB_BLOB_LANES, sizeof *b.lanes);
    fl_status st = b.state && b.lanes ? FL_OK : fl_fail(err, FL_ENOMEM, "a download of %zu parts", b.n_parts);
    for (size_t i = 0; b.lanes && i < HUB_BLOB_LANES; i++) b.lanes[i].b = &b;
    if (st == FL_OK) st = open_files(&b, err);
    if (st == FL_OK) st = run(&b, err);
    for (size_t i = 0; b.lanes && i < HUB_BLOB_LANES; i++) stop(&b.lanes[i]);
    if (b.journal >= 0) { /* also after a failure: the next download goes on from here */
        fl_status synced = sync_parts(&b, st == FL_OK ? err : NULL);
        if (st == FL_OK) st = synced;
    }
    if (b.journal >= 0) (void)close(b.journal);
    if (b.fd >= 0) (void)close(b.fd);
    base_free(b.lanes);
    base_free(b.state);
    return st;
}

/* ---- the complete file ------------------------------------------------------------------ */

fl_status hub_blob_hash(const hub_blob_job *job, bool git, char hex[BASE_SHA256_HEX_BYTES], fl_err *err) {
    base_sha256 sha;
    base_sha1 sha1;
    uint64_t at = 0;
    fl_status st = FL_OK;
    char *chunk = base_malloc(HASH_BYTES);
    if (!chunk) return fl_fail(err, FL_ENOMEM, "a buffer of %d bytes", HASH_BYTES);
    int fd = open_file(job->stem, ".part", O_RDONLY);
    if (fd < 0) st = fl_fail(err, code_of(errno), "%s.part cannot be read: %s", job->stem, strerror(errno));
    base_sha256_begin(&sha);
    base_sha1_begin(&sha1);
    int n_head = snprintf(chunk, HASH_BYTES, "blob %llu", (unsigned long long)job->bytes); /* git hashes its NUL too */
    base_sha1_add(&sha1, chunk, (size_t)n_head + 1);
    while (st == FL_OK) {
        ssize_t n = read(fd, chunk, HASH_BYTES);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) st = fl_fail(err, FL_EIO, "%s.part cannot be read: %s", job->stem, strerror(errno));
        if (n <= 0) break;
        if (git)
            base_sha1_add(&sha1, chunk, (size_t)n);
        else
            base_sha256_add(&sha, chunk, (size_t)n);
        at += (uint64_t)n;
        if (job->tick && !job->tick(job->user, at)) st = fl_fail(err, FL_ECANCELED, "interrupted");
    }
    if (git)
        base_sha1_end(&sha1, hex);
    else
        base_sha256_end(&sha, hex);
    if (fd >= 0) (void)close(fd);
    base_free(chunk);
    return st;
}

static void remove_file(const char *stem, const char *suffix) {
    base_buf path = {0};
    if (base_buf_printf(&path, "%s%s", stem, suffix)) (void)unlink(path.data);
    base_buf_clear(&path);
}

void hub_blob_discard(const char *stem) {
    remove_file(stem, ".journal"); /* first: a journal without its file means nothing */
    remove_file(stem, ".part");
}

fl_status hub_blob_keep(const char *stem, const char *path, fl_err *err) {
    base_buf part = {0};
    fl_status st = FL_OK;
    if (!base_buf_printf(&part, "%s.part", stem))
        st = fl_fail(err, FL_ENOMEM, "a path");
    else if (rename(part.data, path) != 0)
        st = fl_fail(err, FL_EIO, "%s cannot be made: %s", path, strerror(errno));
    if (st == FL_OK) remove_file(stem, ".journal");
    base_buf_clear(&part);
    return st;
}

uint64_t hub_blob_allocated(const char *stem) {
    struct stat st;
    int fd = open_file(stem, ".part", O_RDONLY);
    bool ok = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (fd >= 0) (void)close(fd);
    return ok ? (uint64_t)st.st_blocks * 512 : 0;
}
