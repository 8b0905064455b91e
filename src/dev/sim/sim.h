/* dev/sim/sim.h - a device for tests: the CPU's arithmetic with an accelerator's manners.
 *
 * Runs are queued and done by a thread of the device's own, so the engine meets every
 * order of events that a GPU shows. Addresses it hands out lie in memory that faults when
 * the host touches it. Any call can be made to fail (base/fault.h, BASE_FAULT_DEVICE):
 * those that return a status return FL_EDEVICE, a queued run fails when it is waited for.
 */
#ifndef DEV_SIM_SIM_H
#define DEV_SIM_SIM_H

#include "dev/dev.h"

extern const dev_vtable dev_sim;

#endif
