/* What one GPU says of itself. */
#include "fake.h"

#include <stdio.h>
#include <string.h>

/* One number under one key, written in as many bytes as the caller's type has. */
static nvmlReturn_t answer(const char *function, nvmlDevice_t device, const char *key, void *value, size_t size) {
    int gpu;
    ull number;
    nvmlReturn_t refused = enter_device(function, device, &gpu, NULL);
    if (refused) {
        return refused;
    }
    NEED(value);
    if (!ask(gpu, &number, "%s", key)) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    memcpy(value, &number, size); /* little-endian: the low bytes come first */
    return NVML_SUCCESS;
}

#define NUMBER(function, type, key)                                 \
    nvmlReturn_t function(nvmlDevice_t device, type *value) {       \
        return answer(__func__, device, key, value, sizeof *value); \
    }

NUMBER(nvmlDeviceGetArchitecture, uint, "architecture")
NUMBER(nvmlDeviceGetBrand, uint, "brand")
NUMBER(nvmlDeviceGetPowerUsage, uint, "power.usage")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, uint, "power.limit.enforced")
NUMBER(nvmlDeviceGetPowerManagementLimit, uint, "power.limit")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, uint, "power.limit.default")
NUMBER(nvmlDeviceGetFanSpeed, uint, "fan")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, ull, "clocks.reasons")
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, ull, "clocks.reasons")
NUMBER(nvmlDeviceGetSupportedClocksThrottleReasons, ull, "clocks.reasons.supported")
NUMBER(nvmlDeviceGetSupportedClocksEventReasons, ull, "clocks.reasons.supported")
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, uint, "retired.pending")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, uint, "pcie.width")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, uint, "pcie.width.max")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, uint, "pcie.generation")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, uint, "pcie.generation.max")
NUMBER(nvmlDeviceGetPcieReplayCounter, uint, "pcie.replays")
NUMBER(nvmlDeviceGetComputeMode, uint, "compute_mode")
NUMBER(nvmlDeviceGetPersistenceMode, uint, "persistence")
NUMBER(nvmlDeviceGetDisplayActive, uint, "display.active")
NUMBER(nvmlDeviceGetDisplayMode, uint, "display.mode")
NUMBER(nvmlDeviceGetNumaNodeId, uint, "gpu_numa_node")
NUMBER(nvmlDeviceGetMaxMigDeviceCount, uint, "mig.max")

/* One of several numbers, chosen by an enum of NVML whose values are places in `keys`. */
static nvmlReturn_t chosen(const char *function, nvmlDevice_t device, const char *const *keys, size_t count, uint which,
                           uint *value) {
    return which < count ? answer(function, device, keys[which], value, sizeof *value) : NVML_ERROR_INVALID_ARGUMENT;
}

#define CHOSEN(function, keys)                                              \
    nvmlReturn_t function(nvmlDevice_t device, uint which, uint *value) {   \
        return chosen(__func__, device, keys, COUNT(keys), which, value);   \
    }

static const char *const SENSORS[] = {"temperature"};
static const char *const THRESHOLDS[] = {
    "temperature.shutdown", "temperature.slowdown", "temperature.memory.max", "temperature.max",
};
static const char *const CLOCKS[] = {"clock.graphics", "clock.sm", "clock.memory", "clock.video"};
static const char *const MAX_CLOCKS[] = {"clock.max.graphics", "clock.max.sm", "clock.max.memory", "clock.max.video"};
static const char *const PCIE_COUNTERS[] = {"pcie.tx", "pcie.rx"};
static const char *const FANS[] = {"fan"};

CHOSEN(nvmlDeviceGetTemperature, SENSORS)
CHOSEN(nvmlDeviceGetTemperatureThreshold, THRESHOLDS)
CHOSEN(nvmlDeviceGetClockInfo, CLOCKS)
CHOSEN(nvmlDeviceGetMaxClockInfo, MAX_CLOCKS)
CHOSEN(nvmlDeviceGetPcieThroughput, PCIE_COUNTERS)
CHOSEN(nvmlDeviceGetFanSpeed_v2, FANS)

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_v1_t *temperature) {
    NEED(temperature);
    if (temperature->version != VERSIONED(nvmlTemperature_v1_t, 1U)) {
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    }
    if (temperature->sensorType >= COUNT(SENSORS)) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    return answer(__func__, device, SENSORS[0], &temperature->temperature, sizeof temperature->temperature);
}

/* Two numbers of one kind; the second is the first where no line gives it. */
static nvmlReturn_t pair(int gpu, const char *first_key, uint *first, const char *second_key, uint *second) {
    ull number;
    NEED(first);
    NEED(second);
    if (!ask(gpu, &number, "%s", first_key)) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    *first = (uint)number;
    *second = (uint)ask_or(gpu, number, second_key);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, uint *least, uint *most) {
    ENTER(device, NULL);
    return pair(gpu, "power.limit.min", least, "power.limit.max", most);
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, uint *current, uint *pending) {
    ENTER(device, NULL);
    return pair(gpu, "ecc.mode", current, "ecc.pending", pending);
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, uint *current, uint *pending) {
    ENTER(device, NULL);
    return pair(gpu, "mig.mode", current, "mig.pending", pending);
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    int mig;
    ENTER(device, &mig);
    return pair(gpu, "capability.major", (uint *)major, "capability.minor", (uint *)minor);
}

static nvmlReturn_t text(int gpu, const char *key, char *buffer, uint length) {
    struct entry *entry = scenario_find(&scenario, gpu, key);
    return entry ? copy_text(entry->value, buffer, length) : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetVbiosVersion(nvmlDevice_t device, char *version, uint length) {
    ENTER(device, NULL);
    return text(gpu, "vbios", version, length);
}

nvmlReturn_t nvmlDeviceGetInforomImageVersion(nvmlDevice_t device, char *version, uint length) {
    ENTER(device, NULL);
    return text(gpu, "inforom", version, length);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, uint length) {
    ENTER(device, NULL);
    char numbered[16];
    snprintf(numbered, sizeof numbered, "16540230000%02d", gpu);
    return scenario_find(&scenario, gpu, "serial") ? text(gpu, "serial", serial, length)
                                                   : copy_text(numbered, serial, length);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, uint length) {
    int mig;
    ENTER(device, &mig);
    struct entry *entry = scenario_find(&scenario, gpu, "name");
    char whole[256];
    if (mig == WHOLE_GPU || !entry) {
        return text(gpu, "name", name, length);
    }
    snprintf(whole, sizeof whole, "%.200s MIG %s", entry->value, scenario_mig(mig_entry(gpu, mig)).profile);
    return copy_text(whole, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, uint length) {
    int mig;
    ENTER(device, &mig);
    char own[96];
    uuid_of(gpu, mig, own);
    return copy_text(own, uuid, length);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, uint *index) {
    ENTER(device, NULL);
    NEED(index);
    for (*index = 0; gpu_at(*index) != gpu; (*index)++) {
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, uint *minor) {
    ENTER(device, NULL);
    NEED(minor);
    *minor = (uint)ask_or(gpu, (ull)gpu, "minor");
    return NVML_SUCCESS;
}

static nvmlReturn_t legacy_pci(const char *function, nvmlDevice_t device, nvmlPciInfo_v2_t *info) {
    int gpu;
    nvmlReturn_t refused = enter_device(function, device, &gpu, NULL);
    if (!refused) {
        nvmlPciInfo_t pci;
        NEED(info);
        pci_of(gpu, &pci);
        *info = pci_v2(&pci);
    }
    return refused;
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_v2_t *info) {
    return legacy_pci(__func__, device, info);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_v2_t *info) {
    return legacy_pci(__func__, device, info);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info) {
    ENTER(device, NULL);
    NEED(info);
    pci_of(gpu, info);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    ENTER(device, NULL);
    NEED(utilization);
    ull busy;
    if (!ask(gpu, &busy, "utilization.gpu")) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    *utilization = (nvmlUtilization_t){.gpu = (uint)busy, .memory = (uint)ask_or(gpu, 0, "utilization.memory")};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, uint policy, nvmlViolationTime_t *time) {
    static const char *const POLICIES[] = {
        "violation.power", "violation.thermal", "violation.sync_boost", "violation.board_limit",
        "violation.low_utilization", "violation.reliability", NULL, NULL, NULL, NULL,
        "violation.app_clocks", "violation.base_clocks",
    };
    ENTER(device, NULL);
    NEED(time);
    if (policy >= COUNT(POLICIES) || !POLICIES[policy]) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    time->referenceTime = microseconds();
    return ask(gpu, &time->violationTime, "%s", POLICIES[policy]) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, uint words, unsigned long *set) {
    ENTER(device, NULL);
    NEED(set);
    struct entry *entry = scenario_find(&scenario, gpu, "cpus");
    if (!entry) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    memset(set, 0, words * sizeof *set);
    for (int cpu = -1; scenario_cpu(entry, &cpu);) {
        if ((uint)cpu / 64 < words) {
            set[cpu / 64] |= 1UL << (cpu % 64);
        }
    }
    return NVML_SUCCESS;
}
