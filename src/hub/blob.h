/* hub/blob.h - one file of known size, fetched in parts that arrive side by side.
 *
 *     STEM.part       the file at its full size from the start: no room is an error before the first byte
 *     STEM.journal    a line of sizes, then a line for each part that is on the disk
 *
 * A part counts as done once its bytes are synced, and only then gets its line; whatever interrupts a download, the
 * next one goes on from the journal. A journal that does not fit the wanted size is as good as none.
 *
 * A server that answers a range with the whole file (200) is asked for the whole file, in one stream. An answer about
 * other bytes than those asked for is not used. A part whose connection is cut goes on where it stopped; one that
 * fails HUB_NET_TRIES times without a byte ends the download, whose finished parts stay.
 *
 * The caller holds a lock: nobody else writes the two files.
 */
#ifndef HUB_BLOB_H
#define HUB_BLOB_H

#include "base/sha256.h"
#include "hub/net.h"

enum { HUB_BLOB_PART_BYTES = 8 << 20, HUB_BLOB_LANES = 8 };
#define HUB_BLOB_BYTES_MAX ((uint64_t)1 << 44)

typedef struct {
    hub_net *net;
    const char *url;
    const char *stem;
    uint64_t bytes; /* up to HUB_BLOB_BYTES_MAX */
    /* Called about ten times a second with the bytes that are there (they may fall when a part is repeated); false
     * cancels. */
    bool (*tick)(void *user, uint64_t done);
    void *user;
} hub_blob_job;

/* Brings all bytes into STEM.part. Errors: FL_EIO (network, disk), FL_EFORMAT (the server's answers do not fit),
 * FL_ECANCELED, FL_ENOMEM. */
FL_CHECKED fl_status hub_blob_fetch(const hub_blob_job *job, fl_err *err);

/* The hash of STEM.part: SHA-256, or with git the SHA-1 by which git names contents. */
FL_CHECKED fl_status hub_blob_hash(const hub_blob_job *job, bool git, char hex[BASE_SHA256_HEX_BYTES], fl_err *err);

/* Gives the complete file its name and ends the journal; or deletes both. */
FL_CHECKED fl_status hub_blob_keep(const char *stem, const char *path, fl_err *err);
void hub_blob_discard(const char *stem);

uint64_t hub_blob_allocated(const char *stem); /* bytes of disk that STEM.part has already */

#endif
