/* Starting and stopping, what is true of the whole machine, and finding GPUs. */
#define _GNU_SOURCE
#include "fake.h"

#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct scenario scenario;

static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static bool loaded; /* the scenario is read once a process, so that its lists go on over shutdowns */
static atomic_int users;
static atomic_uint calls[MAX_GPUS]; /* about each GPU, for lost.after */
static atomic_bool lost[MAX_GPUS];

/* Handles are addresses within this array: first the GPUs, then each GPU's MIG devices. */
struct device {
    char unused;
};
static struct device devices[MAX_GPUS * (1 + MAX_MIG)];

nvmlDevice_t handle_of(int gpu, int mig) {
    return &devices[mig == WHOLE_GPU ? gpu : MAX_GPUS + gpu * MAX_MIG + mig];
}

static bool whose(nvmlDevice_t handle, int *gpu, int *mig) {
    uintptr_t number = (uintptr_t)handle - (uintptr_t)devices;
    if (number >= sizeof devices) {
        return false;
    }
    *gpu = number < MAX_GPUS ? (int)number : ((int)number - MAX_GPUS) / MAX_MIG;
    *mig = number < MAX_GPUS ? WHOLE_GPU : ((int)number - MAX_GPUS) % MAX_MIG;
    return *gpu < scenario.gpus;
}

bool ask(int gpu, ull *number, const char *format, ...) {
    char key[KEY_SIZE];
    va_list values;
    va_start(values, format);
    vsnprintf(key, sizeof key, format, values);
    va_end(values);
    struct entry *entry = scenario_find(&scenario, gpu, key);
    if (entry) {
        *number = scenario_next(entry, gpu);
    }
    return entry;
}

ull ask_or(int gpu, ull otherwise, const char *key) {
    ask(gpu, &otherwise, "%s", key);
    return otherwise;
}

/* `delay` or `error` of a function: for this GPU, else for every one. Each GPU walks through a list by itself. */
static ull about_function(const char *what, const char *function, int gpu) {
    char key[KEY_SIZE];
    for (int round = 0; round < 4; round++) {
        int place = round < 2 ? gpu : MACHINE;
        snprintf(key, sizeof key, "%s.%s", what, round % 2 ? "*" : function);
        struct entry *entry = scenario_find(&scenario, place, key);
        if (entry) {
            return scenario_next(entry, gpu);
        }
    }
    return 0;
}

static void wait_as_told(const char *function, int gpu) {
    ull milliseconds = about_function("delay", function, gpu);
    struct timespec left = {(time_t)(milliseconds / 1000), (long)(milliseconds % 1000) * 1000000};
    if (milliseconds == ULLONG_MAX) {
        left = (struct timespec){3600, 0};
    }
    /* As a call into a driver that hangs, it outlasts signals whose handlers return. */
    while (nanosleep(&left, &left) || milliseconds == ULLONG_MAX) {
    }
}

static bool is_lost(const char *function, int gpu) {
    ull after = ask_or(gpu, ULLONG_MAX, "lost.after");
    struct entry *at = scenario_find(&scenario, gpu, "lost.at");
    if (atomic_fetch_add(&calls[gpu], 1) >= after || (at && strcmp(at->value, function) == 0)) {
        atomic_store(&lost[gpu], true);
    }
    return atomic_load(&lost[gpu]);
}

nvmlReturn_t enter(const char *function, int gpu) {
    if (atomic_load(&users) == 0) {
        return NVML_ERROR_UNINITIALIZED;
    }
    wait_as_told(function, gpu);
    if (gpu != MACHINE && is_lost(function, gpu)) {
        return NVML_ERROR_GPU_IS_LOST;
    }
    return (nvmlReturn_t)about_function("error", function, gpu);
}

nvmlReturn_t enter_device(const char *function, nvmlDevice_t device, int *gpu, int *mig) {
    int instance;
    if (!whose(device, gpu, &instance)) {
        return atomic_load(&users) ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    }
    nvmlReturn_t refused = enter(function, *gpu);
    if (mig) {
        *mig = instance;
    }
    return !refused && !mig && instance != WHOLE_GPU ? NVML_ERROR_NOT_SUPPORTED : refused;
}

ull microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (ull)now.tv_sec * 1000000 + (ull)now.tv_nsec / 1000;
}

/* The functions of `missing` must not be there, or the scenario would show a driver that it does not mean. */
static bool without_missing(char *mistake, size_t size) {
    char names[4096], *rest = names;
    scenario_missing(&scenario, names, sizeof names);
    for (char *name = strtok_r(rest, " ", &rest); name; name = strtok_r(NULL, " ", &rest)) {
        if (is_function(name)) {
            snprintf(mistake, size, "%s is to be missing, but this library was built with it", name);
            return false;
        }
    }
    return true;
}

static bool load(void) {
    pthread_mutex_lock(&starting);
    const char *path = getenv("FAKE_NVML_SCENARIO");
    char mistake[8192] = "FAKE_NVML_SCENARIO is not set";
    if (!loaded) {
        loaded = path && scenario_read(&scenario, path, mistake, sizeof mistake) &&
                 without_missing(mistake, sizeof mistake);
        if (!loaded) {
            fprintf(stderr, "fake NVML: %s\n", mistake);
        }
    }
    pthread_mutex_unlock(&starting);
    return loaded;
}

static nvmlReturn_t start(const char *function) {
    if (!load()) {
        return NVML_ERROR_UNKNOWN;
    }
    wait_as_told(function, MACHINE);
    nvmlReturn_t refused = (nvmlReturn_t)ask_or(MACHINE, 0, "init.error");
    refused = refused ? refused : (nvmlReturn_t)about_function("error", function, MACHINE);
    if (!refused) {
        atomic_fetch_add(&users, 1);
    }
    return refused;
}

nvmlReturn_t nvmlInit(void) {
    return start(__func__);
}

nvmlReturn_t nvmlInit_v2(void) {
    return start(__func__);
}

nvmlReturn_t nvmlInitWithFlags(uint flags) {
    (void)flags;
    return start(__func__);
}

nvmlReturn_t nvmlShutdown(void) {
    ENTER_MACHINE();
    atomic_fetch_sub(&users, 1);
    return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result) {
    static const char *const TEXTS[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions",
        "Already Initialized", "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded",
        "Timeout", "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found",
        "Corrupted infoROM", "GPU is lost", "GPU requires restart", "The operating system has blocked the request.",
        "Driver/library version mismatch", "GPU access blocked by in-use", "Insufficient Memory", "No data",
        "ECC not supported with vGPU", "Insufficient Resources", "Frequency not supported",
        "Argument version mismatch", "Deprecated", "Not ready", "GPU not found", "Invalid state",
        "Reset type not supported",
    };
    return result >= 0 && (size_t)result < COUNT(TEXTS) ? TEXTS[result] : "Unknown Error";
}

nvmlReturn_t copy_text(const char *text, char *buffer, uint length) {
    NEED(buffer);
    if (strlen(text) >= length) {
        return NVML_ERROR_INSUFFICIENT_SIZE;
    }
    strcpy(buffer, text);
    return NVML_SUCCESS;
}

static nvmlReturn_t machine_text(const char *key, char *buffer, uint length) {
    struct entry *entry = scenario_find(&scenario, MACHINE, key);
    return entry ? copy_text(entry->value, buffer, length) : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, uint length) {
    ENTER_MACHINE();
    return machine_text("driver", version, length);
}

/* The real one answers without a driver too: it is how nvidia-smi can name both sides of a mismatch. */
nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, uint length) {
    return load() ? machine_text("nvml", version, length) : NVML_ERROR_UNKNOWN;
}

static nvmlReturn_t cuda_version(int *version) {
    NEED(version);
    *version = (int)ask_or(MACHINE, 0, "cuda");
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    ENTER_MACHINE();
    return cuda_version(version);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    ENTER_MACHINE();
    return cuda_version(version);
}

nvmlReturn_t nvmlSystemGetProcessName(uint pid, char *name, uint length) {
    ENTER_MACHINE();
    for (int i = 0; i < scenario.count; i++) {
        struct entry *entry = &scenario.entries[i];
        if (strncmp(entry->key, "process.", 8) == 0 || strncmp(entry->key, "graphics.", 9) == 0) {
            struct process process = scenario_process(entry);
            if (process.pid == pid && process.name) {
                return copy_text(process.name, name, length);
            }
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

int gpu_at(uint index) {
    for (int gpu = 0; gpu < scenario.gpus; gpu++) {
        if (!ask_or(gpu, 0, "absent") && index-- == 0) {
            return gpu;
        }
    }
    return -1;
}

static nvmlReturn_t device_count(const char *function, uint *count) {
    NEED(count);
    nvmlReturn_t refused = enter(function, MACHINE);
    for (*count = 0; gpu_at(*count) >= 0; (*count)++) {
    }
    return refused;
}

nvmlReturn_t nvmlDeviceGetCount(uint *count) {
    return device_count(__func__, count);
}

nvmlReturn_t nvmlDeviceGetCount_v2(uint *count) {
    return device_count(__func__, count);
}

/* A handle, or the error of a call about a GPU that is not there. */
static nvmlReturn_t give(const char *function, int gpu, int mig, nvmlDevice_t *device, nvmlReturn_t otherwise) {
    NEED(device);
    nvmlReturn_t refused = enter(function, gpu < 0 ? MACHINE : gpu);
    if (!refused && gpu >= 0) {
        *device = handle_of(gpu, mig);
    }
    return refused || gpu >= 0 ? refused : otherwise;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(uint index, nvmlDevice_t *device) {
    return give(__func__, gpu_at(index), WHOLE_GPU, device, NVML_ERROR_INVALID_ARGUMENT);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(uint index, nvmlDevice_t *device) {
    return give(__func__, gpu_at(index), WHOLE_GPU, device, NVML_ERROR_INVALID_ARGUMENT);
}

void uuid_of(int gpu, int mig, char uuid[96]) {
    struct entry *entry = scenario_find(&scenario, gpu, "uuid");
    if (mig != WHOLE_GPU) {
        snprintf(uuid, 96, "MIG-5eed0000-0000-5000-%04x-%012x", gpu + 1, mig + 1);
    } else if (entry) {
        snprintf(uuid, 96, "%s", entry->value);
    } else {
        snprintf(uuid, 96, "GPU-5eed0000-0000-4000-8000-%012x", gpu + 1);
    }
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    NEED(uuid);
    int gpu;
    for (uint index = 0; (gpu = gpu_at(index)) >= 0; index++) {
        for (int mig = WHOLE_GPU; mig < MAX_MIG; mig++) {
            char own[96];
            uuid_of(gpu, mig, own);
            if (strcmp(own, uuid) == 0 && (mig == WHOLE_GPU || (ask_or(gpu, 0, "mig.mode") && mig_entry(gpu, mig)))) {
                return give(__func__, gpu, mig, device, NVML_ERROR_NOT_FOUND);
            }
        }
    }
    return give(__func__, -1, WHOLE_GPU, device, NVML_ERROR_NOT_FOUND);
}

void pci_of(int gpu, nvmlPciInfo_t *pci) {
    memset(pci, 0, sizeof *pci);
    pci->domain = (uint)ask_or(gpu, 0, "pci.domain");
    pci->bus = (uint)ask_or(gpu, 16 * ((ull)gpu + 1), "pci.bus");
    pci->pciDeviceId = (uint)ask_or(gpu, 0, "pci.device_id");
    pci->pciSubSystemId = (uint)ask_or(gpu, 0, "pci.subsystem_id");
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "%04X:%02X:%02X.0", pci->domain & 0xFFFF, pci->bus & 0xFF, 0);
    snprintf(pci->busId, sizeof pci->busId, "%08X:%02X:%02X.0", pci->domain, pci->bus & 0xFF, 0);
}

nvmlPciInfo_v2_t pci_v2(const nvmlPciInfo_t *pci) {
    nvmlPciInfo_v2_t legacy = {
        .domain = pci->domain, .bus = pci->bus, .device = pci->device,
        .pciDeviceId = pci->pciDeviceId, .pciSubSystemId = pci->pciSubSystemId,
    };
    memcpy(legacy.busId, pci->busIdLegacy, sizeof legacy.busId);
    return legacy;
}

static int gpu_on_bus(const char *name) {
    uint domain, bus, slot;
    int gpu = -1;
    if (sscanf(name, "%x:%x:%x", &domain, &bus, &slot) != 3 || slot != 0) {
        return -1;
    }
    for (uint index = 0; (gpu = gpu_at(index)) >= 0; index++) {
        nvmlPciInfo_t pci;
        pci_of(gpu, &pci);
        if (pci.domain == domain && pci.bus == bus) {
            break;
        }
    }
    return gpu;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *name, nvmlDevice_t *device) {
    NEED(name);
    return give(__func__, gpu_on_bus(name), WHOLE_GPU, device, NVML_ERROR_NOT_FOUND);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *name, nvmlDevice_t *device) {
    NEED(name);
    return give(__func__, gpu_on_bus(name), WHOLE_GPU, device, NVML_ERROR_NOT_FOUND);
}

/* For the loader: 0 and the functions of `missing`, or 1 and the mistake. Touches nothing of this process's NVML. */
int fake_nvml_read(const char *path, char *answer, size_t size) {
    struct scenario *read = calloc(1, sizeof *read);
    bool good = read && scenario_read(read, path, answer, size);
    if (good) {
        scenario_missing(read, answer, size);
    }
    if (read) {
        scenario_free(read);
    }
    free(read);
    return !good;
}

/* For the tests: the size of a struct, 0 for one that is not known. */
uint fake_nvml_sizeof(const char *name) {
#define SIZE(type) {#type, sizeof(type)}
    static const struct {
        const char *name;
        size_t size;
    } SIZES[] = {
        SIZE(nvmlMemory_t), SIZE(nvmlMemory_v2_t), SIZE(nvmlBAR1Memory_t), SIZE(nvmlUtilization_t),
        SIZE(nvmlPciInfo_v2_t), SIZE(nvmlPciInfo_t), SIZE(nvmlProcessInfo_v2_t), SIZE(nvmlViolationTime_t),
        SIZE(nvmlValue_t), SIZE(nvmlFieldValue_t), SIZE(nvmlTemperature_v1_t), SIZE(nvmlRemappedRowsInfo_v2_t),
        SIZE(nvmlGpuFabricInfo_t), SIZE(nvmlGpuFabricInfo_v2_t), SIZE(nvmlGpuFabricInfo_v3_t),
    };
    for (size_t i = 0; i < COUNT(SIZES); i++) {
        if (strcmp(SIZES[i].name, name) == 0) {
            return (uint)SIZES[i].size;
        }
    }
    return 0;
}
