/* What every function of the fake begins with. */
#ifndef FAKE_NVML_FAKE_H
#define FAKE_NVML_FAKE_H

#include "scenario.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { MAX_MIG = 8, WHOLE_GPU = -1 };

extern struct scenario scenario;

/* A call of `function` about a GPU or MACHINE: waits and fails as the scenario says. */
nvmlReturn_t enter(const char *function, int gpu);
/* The same for a handle of a GPU. MIG devices answer few questions: where `mig` is NULL, theirs is NOT_SUPPORTED. */
nvmlReturn_t enter_device(const char *function, nvmlDevice_t device, int *gpu, int *mig);
nvmlDevice_t handle_of(int gpu, int mig);
/* The number of the scenario's GPU that NVML counts as `index`-th, or -1: absent ones are not counted. */
int gpu_at(uint index);

/* The value of a key, which is formatted; false where no line gives it. */
bool ask(int gpu, ull *number, const char *key, ...) __attribute__((format(printf, 3, 4)));
ull ask_or(int gpu, ull otherwise, const char *key);

struct entry *mig_entry(int gpu, int mig);
nvmlReturn_t copy_text(const char *text, char *buffer, uint length);
void uuid_of(int gpu, int mig, char uuid[96]);
void pci_of(int gpu, nvmlPciInfo_t *pci);
/* From the long form to the one of the older functions. */
nvmlPciInfo_v2_t pci_v2(const nvmlPciInfo_t *pci);
ull microseconds(void);

/* Where a caller passes no room for an answer. */
#define NEED(pointer)                           \
    do {                                        \
        if (!(pointer)) {                       \
            return NVML_ERROR_INVALID_ARGUMENT; \
        }                                       \
    } while (0)

/* Declares `gpu`, or returns what `enter_device` says; `mig` as above. */
#define ENTER(device, mig)                                                \
    int gpu;                                                              \
    do {                                                                  \
        nvmlReturn_t refused = enter_device(__func__, device, &gpu, mig); \
        if (refused) {                                                    \
            return refused;                                               \
        }                                                                 \
    } while (0)

#define ENTER_MACHINE()                                  \
    do {                                                 \
        nvmlReturn_t refused = enter(__func__, MACHINE); \
        if (refused) {                                   \
            return refused;                              \
        }                                                \
    } while (0)

#endif
