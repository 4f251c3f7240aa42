/* NVML's binary interface, as far as muster calls it: layouts and numbers as nvidia-ml-py declares them. */
#ifndef FAKE_NVML_ABI_H
#define FAKE_NVML_ABI_H

typedef unsigned int uint;
typedef unsigned long long ull;
typedef int nvmlReturn_t;
typedef struct device *nvmlDevice_t; /* opaque to callers */

enum {
    NVML_SUCCESS = 0,
    NVML_ERROR_UNINITIALIZED = 1,
    NVML_ERROR_INVALID_ARGUMENT = 2,
    NVML_ERROR_NOT_SUPPORTED = 3,
    NVML_ERROR_NOT_FOUND = 6,
    NVML_ERROR_INSUFFICIENT_SIZE = 7,
    NVML_ERROR_GPU_IS_LOST = 15,
    NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
    NVML_ERROR_UNKNOWN = 999,
};

enum { MAX_LINKS = 36 }; /* NVML_NVLINK_MAX_LINKS; 18 until driver 570 */

/* NVML's rule for structs with a version field: size in the low bits, version in the highest byte. */
#define VERSIONED(type, version) ((uint)(sizeof(type) | (version) << 24U))

typedef struct {
    ull total, free, used; /* used includes what the driver reserves */
} nvmlMemory_t;

typedef struct {
    uint version;
    ull total, reserved, free, used; /* used is what processes have */
} nvmlMemory_v2_t;

typedef struct {
    ull bar1Total, bar1Free, bar1Used;
} nvmlBAR1Memory_t;

typedef struct {
    uint gpu, memory;
} nvmlUtilization_t;

/* nvmlDeviceGetPciInfo and _v2 */
typedef struct {
    char busId[16];
    uint domain, bus, device, pciDeviceId, pciSubSystemId;
    uint reserved[4];
} nvmlPciInfo_v2_t;

/* nvmlDeviceGetPciInfo_v3: a long bus id where the legacy struct has reserved words */
typedef struct {
    char busIdLegacy[16];
    uint domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} nvmlPciInfo_t;

/* nvmlDeviceGetComputeRunningProcesses without a suffix */
typedef struct {
    uint pid;
    ull usedGpuMemory;
} nvmlProcessInfo_v1_t;

/* _v2 and _v3 */
typedef struct {
    uint pid;
    ull usedGpuMemory;
    uint gpuInstanceId, computeInstanceId;
} nvmlProcessInfo_v2_t;

typedef struct {
    ull referenceTime, violationTime;
} nvmlViolationTime_t;

typedef union {
    double dVal;
    uint uiVal;
    ull ullVal;
} nvmlValue_t;

enum { VALUE_UNSIGNED_INT = 1, VALUE_UNSIGNED_LONG_LONG = 3 };

typedef struct {
    uint fieldId, scopeId;
    long long timestamp, latencyUsec;
    uint valueType;
    nvmlReturn_t nvmlReturn;
    nvmlValue_t value;
} nvmlFieldValue_t;

typedef struct {
    uint version, sensorType;
    int temperature;
} nvmlTemperature_v1_t;

typedef struct {
    uint corrActiveRemaps, corrInactiveRemaps, uncActiveRemaps, uncInactiveRemaps, bPending, bfailureOccurred;
} nvmlRemappedRowsInfo_v2_t;

typedef struct {
    unsigned char clusterUuid[16];
    nvmlReturn_t status;
    uint cliqueId, state;
} nvmlGpuFabricInfo_t;

typedef struct {
    uint version;
    unsigned char clusterUuid[16];
    nvmlReturn_t status;
    uint cliqueId, state, healthMask;
} nvmlGpuFabricInfo_v2_t;

typedef struct {
    uint version;
    unsigned char clusterUuid[16];
    nvmlReturn_t status;
    uint cliqueId, state, healthMask;
    unsigned char healthSummary;
} nvmlGpuFabricInfo_v3_t;

#endif
