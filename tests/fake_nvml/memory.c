/* Memory and its errors. */
#include "fake.h"

#include <stdio.h>

/* Without a line of `memory.used` or `memory.free`, what the scenario's processes have is used. */
static ull bytes_of_processes(int gpu) {
    ull sum = 0;
    char key[KEY_SIZE];
    struct entry *shown = scenario_find(&scenario, gpu, "processes");
    for (ull i = 0; i < 64 && (!shown || i < scenario_last(shown, gpu)); i++) {
        snprintf(key, sizeof key, "process.%llu", i);
        struct entry *entry = scenario_find(&scenario, gpu, key);
        ull bytes = entry ? scenario_process(entry).bytes : 0;
        sum += bytes == ~0ULL ? 0 : bytes;
    }
    return sum;
}

static nvmlReturn_t memory_of(int gpu, int mig, nvmlMemory_v2_t *memory) {
    *memory = (nvmlMemory_v2_t){.version = memory->version};
    if (mig != WHOLE_GPU) {
        memory->total = memory->free = scenario_mig(mig_entry(gpu, mig)).bytes;
        return NVML_SUCCESS;
    }
    if (!ask(gpu, &memory->total, "memory.total")) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    memory->reserved = ask_or(gpu, 0, "memory.reserved");
    if (ask(gpu, &memory->free, "memory.free")) {
        memory->used = memory->total - memory->reserved - memory->free;
    } else {
        memory->used = ask_or(gpu, bytes_of_processes(gpu), "memory.used");
        memory->free = memory->total - memory->reserved - memory->used;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    int mig;
    ENTER(device, &mig);
    NEED(memory);
    nvmlMemory_v2_t whole = {0};
    nvmlReturn_t refused = memory_of(gpu, mig, &whole);
    if (!refused) {
        *memory = (nvmlMemory_t){.total = whole.total, .free = whole.free, .used = whole.used + whole.reserved};
    }
    return refused;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    int mig;
    ENTER(device, &mig);
    NEED(memory);
    if (memory->version != VERSIONED(nvmlMemory_v2_t, 2U)) {
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    }
    return memory_of(gpu, mig, memory);
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory) {
    ENTER(device, NULL);
    NEED(memory);
    if (!ask(gpu, &memory->bar1Total, "bar1.total")) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    memory->bar1Used = ask_or(gpu, 0, "bar1.used");
    memory->bar1Free = memory->bar1Total - memory->bar1Used;
    return NVML_SUCCESS;
}

/* kind: 0 corrected, 1 uncorrected; counter: 0 since the driver was loaded (volatile), 1 ever (aggregate). */
static nvmlReturn_t ecc_errors(int gpu, uint kind, uint counter, ull *count) {
    static const char *const KEYS[2][2] = {
        {"ecc.corrected", "ecc.aggregate.corrected"},
        {"ecc.uncorrected", "ecc.aggregate.uncorrected"},
    };
    NEED(count);
    if (kind > 1 || counter > 1) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    bool counted = ask_or(gpu, 0, "ecc.mode") == 1 && ask(gpu, count, "%s", KEYS[kind][counter]);
    return counted ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, uint kind, uint counter, ull *count) {
    ENTER(device, NULL);
    return ecc_errors(gpu, kind, counter, count);
}

nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, uint kind, uint counter, uint place, ull *count) {
    enum { DRAM = 2, LOCATIONS = 8 };
    ENTER(device, NULL);
    if (place >= LOCATIONS) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    nvmlReturn_t refused = ecc_errors(gpu, kind, counter, count);
    if (!refused && place != ask_or(gpu, DRAM, "ecc.location")) {
        *count = 0;
    }
    return refused;
}

static nvmlReturn_t remapped(int gpu, nvmlRemappedRowsInfo_v2_t *rows) {
    ull corrected;
    if (!ask(gpu, &corrected, "remap.corrected")) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    *rows = (nvmlRemappedRowsInfo_v2_t){
        .corrActiveRemaps = (uint)corrected,
        .uncActiveRemaps = (uint)ask_or(gpu, 0, "remap.uncorrected"),
        .bPending = (uint)ask_or(gpu, 0, "remap.pending"),
        .bfailureOccurred = (uint)ask_or(gpu, 0, "remap.failed"),
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, uint *corrected, uint *uncorrected, uint *pending,
                                       uint *failed) {
    ENTER(device, NULL);
    nvmlRemappedRowsInfo_v2_t rows;
    nvmlReturn_t refused = remapped(gpu, &rows);
    if (!refused) {
        *corrected = rows.corrActiveRemaps;
        *uncorrected = rows.uncActiveRemaps;
        *pending = rows.bPending;
        *failed = rows.bfailureOccurred;
    }
    return refused;
}

nvmlReturn_t nvmlDeviceGetRemappedRows_v2(nvmlDevice_t device, nvmlRemappedRowsInfo_v2_t *rows) {
    ENTER(device, NULL);
    NEED(rows);
    return remapped(gpu, rows);
}

/* `times` is NULL for the function without a suffix. A count of pages is given; addresses and times are made up. */
static nvmlReturn_t retired(int gpu, uint cause, uint *count, ull *addresses, ull *times) {
    static const char *const CAUSES[] = {"retired.single", "retired.double"};
    NEED(count);
    if (cause >= COUNT(CAUSES)) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    struct entry *entry = scenario_find(&scenario, gpu, CAUSES[cause]);
    if (!entry) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    ull pages = addresses ? scenario_last(entry, gpu) : scenario_next(entry, gpu); /* as `running` below */
    bool room = *count >= pages;
    *count = (uint)pages;
    for (ull i = 0; room && i < pages; i++) {
        addresses[i] = 0x1000 * (i + 1);
        if (times) {
            times[i] = 1700000000000000 + i;
        }
    }
    return room ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

nvmlReturn_t nvmlDeviceGetRetiredPages(nvmlDevice_t device, uint cause, uint *count, ull *addresses) {
    ENTER(device, NULL);
    return retired(gpu, cause, count, addresses, NULL);
}

nvmlReturn_t nvmlDeviceGetRetiredPages_v2(nvmlDevice_t device, uint cause, uint *count, ull *addresses, ull *times) {
    ENTER(device, NULL);
    return retired(gpu, cause, count, addresses, times);
}
