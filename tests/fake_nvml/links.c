/* How GPUs reach each other: NVLink, peer-to-peer, topology and fabric; and the fields that have no function. */
#include "fake.h"

#include <stdio.h>
#include <string.h>

/* `nvlink.5.speed`, or `nvlink.speed` for every link. */
static bool ask_link(int gpu, uint link, const char *key, ull *number) {
    return ask(gpu, number, "nvlink.%u.%s", link, key) || ask(gpu, number, "nvlink.%s", key);
}

/* Without a line of `nvlink.links` a GPU has no NVLink. */
static nvmlReturn_t has_link(int gpu, uint link) {
    ull links;
    if (!ask(gpu, &links, "nvlink.links")) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    return link < links && link < MAX_LINKS ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}

static bool is_up(int gpu, uint link) {
    ull state;
    return !ask_link(gpu, link, "state", &state) || state == 1;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, uint link, uint *active) {
    ENTER(device, NULL);
    NEED(active);
    nvmlReturn_t refused = has_link(gpu, link);
    if (!refused) {
        *active = is_up(gpu, link);
    }
    return refused;
}

nvmlReturn_t nvmlDeviceGetNvLinkCapability(nvmlDevice_t device, uint link, uint capability, uint *supported) {
    enum { SLI_BRIDGE = 4, CAPABILITIES = 6 };
    ENTER(device, NULL);
    NEED(supported);
    nvmlReturn_t refused = has_link(gpu, link);
    if (capability >= CAPABILITIES) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    *supported = !refused && capability != SLI_BRIDGE;
    return refused;
}

nvmlReturn_t nvmlDeviceGetNvLinkVersion(nvmlDevice_t device, uint link, uint *version) {
    ENTER(device, NULL);
    NEED(version);
    nvmlReturn_t refused = has_link(gpu, link);
    if (!refused) {
        *version = (uint)ask_or(gpu, 0, "nvlink.version");
    }
    return refused;
}

static nvmlReturn_t remote(const char *function, nvmlDevice_t device, uint link, nvmlPciInfo_t *pci) {
    int gpu;
    ull bus;
    nvmlReturn_t refused = enter_device(function, device, &gpu, NULL);
    refused = refused ? refused : has_link(gpu, link);
    if (refused) {
        return refused;
    }
    NEED(pci);
    if (!is_up(gpu, link) || !ask_link(gpu, link, "remote.bus", &bus)) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    memset(pci, 0, sizeof *pci);
    pci->bus = (uint)bus;
    pci->pciDeviceId = (uint)ask_or(gpu, 0, "nvlink.remote.device_id");
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, "0000:%02X:00.0", pci->bus & 0xFF);
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", pci->bus & 0xFF);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo(nvmlDevice_t device, uint link, nvmlPciInfo_v2_t *info) {
    nvmlPciInfo_t pci;
    nvmlReturn_t refused = remote(__func__, device, link, &pci);
    if (!refused) {
        NEED(info);
        *info = pci_v2(&pci);
    }
    return refused;
}

nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, uint link, nvmlPciInfo_t *info) {
    return remote(__func__, device, link, info);
}

nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, uint link, uint counter, ull *count) {
    static const char *const COUNTERS[] = {"replays", "recoveries", "crc_flit", "crc_data"};
    ENTER(device, NULL);
    NEED(count);
    nvmlReturn_t refused = has_link(gpu, link);
    if (refused || counter >= COUNT(COUNTERS)) {
        return refused ? refused : NVML_ERROR_INVALID_ARGUMENT;
    }
    return ask_link(gpu, link, COUNTERS[counter], count) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

/* Questions about the other GPU of a pair count as questions about the first. */
static bool pair_of(nvmlDevice_t second, int *other) {
    for (*other = 0; *other < scenario.gpus; (*other)++) {
        if (handle_of(*other, WHOLE_GPU) == second) {
            return true;
        }
    }
    return false;
}

nvmlReturn_t nvmlDeviceGetP2PStatus(nvmlDevice_t first, nvmlDevice_t second, uint capability, uint *status) {
    static const char *const CAPABILITIES[] = {"read", "write", "nvlink", "atomics", "pci"};
    enum { P2P_NOT_SUPPORTED = 5 };
    ENTER(first, NULL);
    NEED(status);
    int other;
    if (!pair_of(second, &other) || capability >= COUNT(CAPABILITIES)) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    ull number = P2P_NOT_SUPPORTED;
    if (!ask(gpu, &number, "p2p.%d.%s", other, CAPABILITIES[capability])) {
        ask(gpu, &number, "p2p.%s", CAPABILITIES[capability]);
    }
    *status = (uint)number;
    return NVML_SUCCESS;
}

/* Without a line of `topology`: the same CPUs mean the same NUMA node. */
nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t first, nvmlDevice_t second, uint *level) {
    enum { INTERNAL = 0, NODE = 40, SYSTEM = 50 };
    ENTER(first, NULL);
    NEED(level);
    int other;
    ull number;
    if (!pair_of(second, &other)) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    struct entry *here = scenario_find(&scenario, gpu, "cpus"), *there = scenario_find(&scenario, other, "cpus");
    if (gpu == other) {
        *level = INTERNAL;
    } else if (ask(gpu, &number, "topology.%d", other) || ask(gpu, &number, "topology")) {
        *level = (uint)number;
    } else {
        *level = here && there && strcmp(here->value, there->value) == 0 ? NODE : SYSTEM;
    }
    return NVML_SUCCESS;
}

/* The newest struct; the older ones lack its version, or its end. */
static nvmlReturn_t fabric(int gpu, nvmlGpuFabricInfo_v3_t *info) {
    ull state;
    if (!ask(gpu, &state, "fabric.state")) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    memset(info, 0, sizeof *info);
    for (int i = 0; i < 8; i++) {
        info->clusterUuid[15 - i] = (unsigned char)(ask_or(gpu, 0, "fabric.cluster") >> (8 * i));
    }
    info->status = (nvmlReturn_t)ask_or(gpu, 0, "fabric.status");
    info->cliqueId = (uint)ask_or(gpu, 0, "fabric.clique");
    info->state = (uint)state;
    info->healthMask = (uint)ask_or(gpu, 0, "fabric.health_mask");
    info->healthSummary = (unsigned char)ask_or(gpu, 0, "fabric.health");
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *info) {
    ENTER(device, NULL);
    NEED(info);
    nvmlGpuFabricInfo_v3_t newest;
    nvmlReturn_t refused = fabric(gpu, &newest);
    if (!refused) {
        memcpy(info, newest.clusterUuid, sizeof *info);
    }
    return refused;
}

/* The caller's version says which struct it passes. */
nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfo_v3_t *info) {
    ENTER(device, NULL);
    NEED(info);
    uint version = info->version;
    size_t size = version == VERSIONED(nvmlGpuFabricInfo_v2_t, 2U)   ? sizeof(nvmlGpuFabricInfo_v2_t)
                  : version == VERSIONED(nvmlGpuFabricInfo_v3_t, 3U) ? sizeof *info
                                                                     : 0;
    nvmlGpuFabricInfo_v3_t newest;
    if (!size) {
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    }
    nvmlReturn_t refused = fabric(gpu, &newest);
    if (!refused) {
        newest.version = version;
        memcpy(info, &newest, size);
    }
    return refused;
}

struct field {
    uint id;
    const char *key;
    uint type;
};

static const struct field FIELDS[] = {
    {1, "ecc.mode", VALUE_UNSIGNED_INT},
    {2, "ecc.pending", VALUE_UNSIGNED_INT},
    {3, "ecc.corrected", VALUE_UNSIGNED_LONG_LONG},
    {4, "ecc.uncorrected", VALUE_UNSIGNED_LONG_LONG},
    {5, "ecc.aggregate.corrected", VALUE_UNSIGNED_LONG_LONG},
    {6, "ecc.aggregate.uncorrected", VALUE_UNSIGNED_LONG_LONG},
    {29, "retired.single", VALUE_UNSIGNED_LONG_LONG},
    {30, "retired.double", VALUE_UNSIGNED_LONG_LONG},
    {31, "retired.pending", VALUE_UNSIGNED_LONG_LONG},
    {74, "violation.power", VALUE_UNSIGNED_LONG_LONG},
    {75, "violation.thermal", VALUE_UNSIGNED_LONG_LONG},
    {82, "temperature.memory", VALUE_UNSIGNED_INT},
    {90, "nvlink.speed", VALUE_UNSIGNED_INT},
    {91, "nvlink.links", VALUE_UNSIGNED_INT},
    {94, "pcie.replays", VALUE_UNSIGNED_LONG_LONG},
    {142, "remap.corrected", VALUE_UNSIGNED_INT},
    {143, "remap.uncorrected", VALUE_UNSIGNED_INT},
    {144, "remap.pending", VALUE_UNSIGNED_INT},
    {145, "remap.failed", VALUE_UNSIGNED_INT},
    {185, "power.usage", VALUE_UNSIGNED_INT},
    {186, "power.usage", VALUE_UNSIGNED_INT},
    {187, "power.limit.min", VALUE_UNSIGNED_INT},
    {188, "power.limit.max", VALUE_UNSIGNED_INT},
    {189, "power.limit.default", VALUE_UNSIGNED_INT},
    {190, "power.limit", VALUE_UNSIGNED_INT},
    {230, "recovery_action", VALUE_UNSIGNED_INT},
};

/* The link is in scopeId; its largest value asks for the sum of all links. */
static const struct field LINK_FIELDS[] = {
    {138, "tx", VALUE_UNSIGNED_LONG_LONG},
    {139, "rx", VALUE_UNSIGNED_LONG_LONG},
    {161, "replays", VALUE_UNSIGNED_LONG_LONG},
    {162, "recoveries", VALUE_UNSIGNED_LONG_LONG},
    {163, "crc_flit", VALUE_UNSIGNED_LONG_LONG},
    {164, "speed", VALUE_UNSIGNED_INT},
    {165, "state", VALUE_UNSIGNED_INT},
    {166, "version", VALUE_UNSIGNED_INT},
};

static const struct field *field_of(const struct field *fields, size_t count, uint id) {
    for (size_t i = 0; i < count; i++) {
        if (fields[i].id == id) {
            return &fields[i];
        }
    }
    return NULL;
}

/* Older fields have one number for each link's speed. */
static void name_link(nvmlFieldValue_t *field, uint *id, uint *link) {
    *id = field->fieldId;
    *link = field->scopeId;
    if (*id >= 84 && *id <= 89) {
        *link = *id - 84;
        *id = 164;
    } else if (*id >= 132 && *id <= 137) {
        *link = *id - 132 + 6;
        *id = 164;
    }
}

static nvmlReturn_t link_field(int gpu, uint link, const struct field *known, ull *number) {
    uint first = link == ~0U ? 0 : link;
    nvmlReturn_t refused = has_link(gpu, first);
    *number = 0;
    for (uint i = first; !refused && (i == link || (link == ~0U && has_link(gpu, i) == NVML_SUCCESS)); i++) {
        ull one;
        if (!ask_link(gpu, i, known->key, &one)) {
            return NVML_ERROR_NOT_SUPPORTED;
        }
        *number += known->id == 164 && !is_up(gpu, i) ? 0 : one; /* a link that is down has no speed */
    }
    return refused;
}

static nvmlReturn_t field_value(int gpu, nvmlFieldValue_t *field) {
    uint id, link;
    ull number;
    name_link(field, &id, &link);
    const struct field *known = field_of(FIELDS, COUNT(FIELDS), id);
    if (known && !ask(gpu, &number, "%s", known->key)) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    if (!known) {
        known = field_of(LINK_FIELDS, COUNT(LINK_FIELDS), id);
        nvmlReturn_t refused = known ? link_field(gpu, link, known, &number) : NVML_ERROR_NOT_SUPPORTED;
        if (refused) {
            return refused;
        }
    }
    field->valueType = known->type;
    if (known->type == VALUE_UNSIGNED_INT) {
        field->value.uiVal = (uint)number;
    } else {
        field->value.ullVal = number;
    }
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *fields) {
    ENTER(device, NULL);
    NEED(fields);
    for (int i = 0; i < count; i++) {
        fields[i].timestamp = (long long)microseconds();
        fields[i].latencyUsec = 0;
        fields[i].nvmlReturn = field_value(gpu, &fields[i]);
    }
    return NVML_SUCCESS;
}
