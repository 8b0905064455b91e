#include "base/fault.h"

#include <stdatomic.h>

static struct {
    atomic_uint_fast64_t left;
    atomic_bool happened;
} switches[BASE_FAULT_KINDS];

void base_fault_arm(base_fault kind, uint64_t n) {
    atomic_store(&switches[kind].happened, false);
    atomic_store(&switches[kind].left, n);
}

bool base_fault_hit(base_fault kind) {
    uint_fast64_t left = atomic_load(&switches[kind].left);
    while (left && !atomic_compare_exchange_weak(&switches[kind].left, &left, left - 1)) {
    }
    if (left != 1) return false;
    atomic_store(&switches[kind].happened, true);
    return true;
}

bool base_fault_happened(base_fault kind) { return atomic_load(&switches[kind].happened); }
