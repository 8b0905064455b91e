/* base/fault.h - switches with which tests make the n-th call of a kind fail. Off unless a test turns them on. */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

#include <stdbool.h>
#include <stdint.h>

typedef enum { BASE_FAULT_DEVICE, BASE_FAULT_KINDS } base_fault;

/* The n-th call from now fails (n >= 1), later ones work again; 0 switches it off. */
void base_fault_arm(base_fault kind, uint64_t n);
/* Counts a call; true when it must fail. */
bool base_fault_hit(base_fault kind);
/* Whether an armed failure has happened. */
bool base_fault_happened(base_fault kind);

#endif
