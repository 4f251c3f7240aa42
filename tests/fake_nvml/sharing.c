/* Who else uses a GPU: MIG devices and processes. */
#include "fake.h"

#include <stdio.h>
#include <string.h>

struct entry *mig_entry(int gpu, int mig) {
    char key[KEY_SIZE];
    snprintf(key, sizeof key, "mig.%d", mig);
    return scenario_find(&scenario, gpu, key);
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, uint index, nvmlDevice_t *mig_device) {
    ENTER(device, NULL);
    NEED(mig_device);
    if (index >= MAX_MIG || index >= ask_or(gpu, 0, "mig.max")) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    if (!ask_or(gpu, 0, "mig.mode") || !mig_entry(gpu, (int)index)) {
        return NVML_ERROR_NOT_FOUND;
    }
    *mig_device = handle_of(gpu, (int)index);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, uint *is_mig) {
    int mig;
    ENTER(device, &mig);
    NEED(is_mig);
    *is_mig = mig != WHOLE_GPU;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig_device, nvmlDevice_t *device) {
    int mig;
    ENTER(mig_device, &mig);
    NEED(device);
    *device = handle_of(gpu, WHOLE_GPU);
    return mig == WHOLE_GPU ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, uint *id) {
    int mig;
    ENTER(device, &mig);
    NEED(id);
    if (mig == WHOLE_GPU) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    *id = scenario_mig(mig_entry(gpu, mig)).instance;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, uint *id) {
    int mig;
    ENTER(device, &mig);
    NEED(id);
    *id = 0;
    return mig == WHOLE_GPU ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

/* Callers ask for the number of processes first, with no room, and then for them: a list of `processes` moves on at
 * the first of the two. `size` is that of the caller's struct. */
static nvmlReturn_t running(const char *function, nvmlDevice_t device, const char *kind, uint *count, void *infos,
                            size_t size) {
    int gpu, mig;
    nvmlReturn_t refused = enter_device(function, device, &gpu, &mig);
    if (refused) {
        return refused;
    }
    NEED(count);
    struct entry *shown = scenario_find(&scenario, gpu, *kind == 'p' ? "processes" : "graphics");
    ull limit = !shown ? 64 : *count == 0 ? scenario_next(shown, gpu) : scenario_last(shown, gpu);
    uint room = infos ? *count : 0, found = 0;
    for (ull i = 0; i < limit && i < 64 && mig == WHOLE_GPU; i++) {
        char key[KEY_SIZE];
        snprintf(key, sizeof key, "%s.%llu", kind, i);
        struct entry *entry = scenario_find(&scenario, gpu, key);
        if (entry && found++ < room) {
            struct process process = scenario_process(entry);
            nvmlProcessInfo_v2_t info = {process.pid, process.bytes, ~0U, ~0U};
            memcpy((char *)infos + (found - 1) * size, &info, size); /* the first struct is the start of the second */
        }
    }
    *count = found;
    return found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

#define RUNNING(function, kind, type)                                        \
    nvmlReturn_t function(nvmlDevice_t device, uint *count, type *infos) {   \
        return running(__func__, device, kind, count, infos, sizeof *infos); \
    }

RUNNING(nvmlDeviceGetComputeRunningProcesses, "process", nvmlProcessInfo_v1_t)
RUNNING(nvmlDeviceGetComputeRunningProcesses_v2, "process", nvmlProcessInfo_v2_t)
RUNNING(nvmlDeviceGetComputeRunningProcesses_v3, "process", nvmlProcessInfo_v2_t)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses, "graphics", nvmlProcessInfo_v1_t)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics", nvmlProcessInfo_v2_t)
RUNNING(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics", nvmlProcessInfo_v2_t)
