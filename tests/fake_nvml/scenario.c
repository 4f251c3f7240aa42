/* The scenario file.
 *
 *     # a comment, to the end of the line
 *     include h100x8.scenario            relative to this file; a later line replaces an earlier one
 *     gpus = 8
 *     gpu.*.memory.total = 81559 MiB     every GPU
 *     gpu.3.ecc.uncorrected = 2          GPU 3 alone
 *     gpu.0.temperature = 40, 60, 80     the 1st, 2nd and 3rd question of GPU 0; then 80
 *     gpu.0.utilization.gpu = 0, 99, ...  0, 99, 0, 99 and so on
 *     gpu.*.nvlink.links = unsupported   takes the line of an included file back
 *     missing = nvmlDeviceGetSerial      functions that this driver lacks; the one key whose lines add up
 *
 * Numbers: decimal or 0x, up to 64 bit, with KiB, MiB or GiB after them where wanted; `forever` and `unknown` are the
 * largest. A question about a key that no line gives is answered with NVML_ERROR_NOT_SUPPORTED. KEYS lists every key;
 * README.md says what each means. A line with anything else is a mistake.
 */
#define _GNU_SOURCE /* dladdr */
#include "scenario.h"

#include <ctype.h>
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum kind { NUMBER, TEXT, PROCESS, MIG, CPUS, FUNCTION, FUNCTIONS };

/* `#` is a number, `@` the name of a function of NVML or `*`. */
struct key {
    const char *pattern;
    enum kind kind;
};

static const struct key MACHINE_KEYS[] = {
    {"gpus", NUMBER},
    {"driver", TEXT},
    {"cuda", NUMBER},
    {"nvml", TEXT},
    {"init.error", NUMBER},
    {"error.@", NUMBER},
    {"delay.@", NUMBER},
    {"missing", FUNCTIONS},
};

static const struct key GPU_KEYS[] = {
    {"absent", NUMBER},
    {"lost.after", NUMBER},
    {"lost.at", FUNCTION},
    {"error.@", NUMBER},
    {"delay.@", NUMBER},
    {"name", TEXT},
    {"uuid", TEXT},
    {"serial", TEXT},
    {"minor", NUMBER},
    {"vbios", TEXT},
    {"inforom", TEXT},
    {"architecture", NUMBER},
    {"brand", NUMBER},
    {"capability.major", NUMBER},
    {"capability.minor", NUMBER},
    {"pci.domain", NUMBER},
    {"pci.bus", NUMBER},
    {"pci.device_id", NUMBER},
    {"pci.subsystem_id", NUMBER},
    {"memory.total", NUMBER},
    {"memory.reserved", NUMBER},
    {"memory.used", NUMBER},
    {"memory.free", NUMBER},
    {"bar1.total", NUMBER},
    {"bar1.used", NUMBER},
    {"utilization.gpu", NUMBER},
    {"utilization.memory", NUMBER},
    {"power.usage", NUMBER},
    {"power.limit", NUMBER},
    {"power.limit.enforced", NUMBER},
    {"power.limit.default", NUMBER},
    {"power.limit.min", NUMBER},
    {"power.limit.max", NUMBER},
    {"temperature", NUMBER},
    {"temperature.memory", NUMBER},
    {"temperature.shutdown", NUMBER},
    {"temperature.slowdown", NUMBER},
    {"temperature.memory.max", NUMBER},
    {"temperature.max", NUMBER},
    {"fan", NUMBER},
    {"clock.graphics", NUMBER},
    {"clock.sm", NUMBER},
    {"clock.memory", NUMBER},
    {"clock.video", NUMBER},
    {"clock.max.graphics", NUMBER},
    {"clock.max.sm", NUMBER},
    {"clock.max.memory", NUMBER},
    {"clock.max.video", NUMBER},
    {"clocks.reasons", NUMBER},
    {"clocks.reasons.supported", NUMBER},
    {"violation.power", NUMBER},
    {"violation.thermal", NUMBER},
    {"violation.sync_boost", NUMBER},
    {"violation.board_limit", NUMBER},
    {"violation.low_utilization", NUMBER},
    {"violation.reliability", NUMBER},
    {"violation.app_clocks", NUMBER},
    {"violation.base_clocks", NUMBER},
    {"ecc.mode", NUMBER},
    {"ecc.pending", NUMBER},
    {"ecc.corrected", NUMBER},
    {"ecc.uncorrected", NUMBER},
    {"ecc.aggregate.corrected", NUMBER},
    {"ecc.aggregate.uncorrected", NUMBER},
    {"ecc.location", NUMBER},
    {"remap.corrected", NUMBER},
    {"remap.uncorrected", NUMBER},
    {"remap.pending", NUMBER},
    {"remap.failed", NUMBER},
    {"retired.single", NUMBER},
    {"retired.double", NUMBER},
    {"retired.pending", NUMBER},
    {"pcie.width", NUMBER},
    {"pcie.width.max", NUMBER},
    {"pcie.generation", NUMBER},
    {"pcie.generation.max", NUMBER},
    {"pcie.tx", NUMBER},
    {"pcie.rx", NUMBER},
    {"pcie.replays", NUMBER},
    {"nvlink.links", NUMBER},
    {"nvlink.state", NUMBER},
    {"nvlink.#.state", NUMBER},
    {"nvlink.speed", NUMBER},
    {"nvlink.#.speed", NUMBER},
    {"nvlink.version", NUMBER},
    {"nvlink.remote.bus", NUMBER},
    {"nvlink.#.remote.bus", NUMBER},
    {"nvlink.remote.device_id", NUMBER},
    {"nvlink.tx", NUMBER},
    {"nvlink.#.tx", NUMBER},
    {"nvlink.rx", NUMBER},
    {"nvlink.#.rx", NUMBER},
    {"nvlink.replays", NUMBER},
    {"nvlink.#.replays", NUMBER},
    {"nvlink.recoveries", NUMBER},
    {"nvlink.#.recoveries", NUMBER},
    {"nvlink.crc_flit", NUMBER},
    {"nvlink.#.crc_flit", NUMBER},
    {"nvlink.crc_data", NUMBER},
    {"nvlink.#.crc_data", NUMBER},
    {"recovery_action", NUMBER},
    {"p2p.read", NUMBER},
    {"p2p.#.read", NUMBER},
    {"p2p.write", NUMBER},
    {"p2p.#.write", NUMBER},
    {"p2p.nvlink", NUMBER},
    {"p2p.#.nvlink", NUMBER},
    {"p2p.atomics", NUMBER},
    {"p2p.#.atomics", NUMBER},
    {"p2p.pci", NUMBER},
    {"p2p.#.pci", NUMBER},
    {"topology", NUMBER},
    {"topology.#", NUMBER},
    {"cpus", CPUS},
    {"gpu_numa_node", NUMBER},
    {"mig.mode", NUMBER},
    {"mig.pending", NUMBER},
    {"mig.max", NUMBER},
    {"mig.#", MIG},
    {"compute_mode", NUMBER},
    {"process.#", PROCESS},
    {"processes", NUMBER},
    {"graphics.#", PROCESS},
    {"graphics", NUMBER},
    {"fabric.state", NUMBER},
    {"fabric.status", NUMBER},
    {"fabric.clique", NUMBER},
    {"fabric.cluster", NUMBER},
    {"fabric.health_mask", NUMBER},
    {"fabric.health", NUMBER},
    {"persistence", NUMBER},
    {"display.active", NUMBER},
    {"display.mode", NUMBER},
};

/* The library looks its own functions up by name, so that no second list of them has to be kept. */
bool is_function(const char *name) {
    Dl_info here;
    if (strncmp(name, "nvml", 4) != 0 || !dladdr((void *)MACHINE_KEYS, &here)) {
        return false;
    }
    void *self = dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    bool found = self && dlsym(self, name);
    if (self) {
        dlclose(self);
    }
    return found;
}

/* A number at the start of `text`; false unless one of the characters in `ends` comes after it. */
static bool parse_number(const char *text, const char *ends, ull *number) {
    static const struct {
        const char *word;
        int shift;
    } UNITS[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
    static const char *const LARGEST[] = {"forever", "unknown"};
    for (size_t i = 0; i < sizeof LARGEST / sizeof *LARGEST; i++) {
        if (strncmp(text, LARGEST[i], strlen(LARGEST[i])) == 0) {
            *number = ULLONG_MAX;
            text += strlen(LARGEST[i]);
            return !*text || strchr(ends, *text);
        }
    }
    char *end;
    *number = strtoull(text, &end, 0);
    if (end == text) {
        return false;
    }
    const char *after = end + strspn(end, " ");
    for (size_t i = 0; i < sizeof UNITS / sizeof *UNITS; i++) {
        if (strncmp(after, UNITS[i].word, 3) == 0) {
            *number <<= UNITS[i].shift;
            end = (char *)after + 3;
        }
    }
    end += strspn(end, " ");
    return !*end || strchr(ends, *end);
}

/* `10, 20, 30` or `10, 20, ...`: the value at `position`, the last one staying unless dots say to begin again. */
static bool parse_list(const char *text, uint position, ull *number) {
    ull values[256];
    uint count = 0;
    bool again = false;
    while (true) {
        text += strspn(text, " ");
        if (count && strcmp(text, "...") == 0) {
            again = true;
            break;
        }
        if (count == 256 || !parse_number(text, ",", &values[count++])) {
            return false;
        }
        text = strchr(text, ',');
        if (!text) {
            break;
        }
        text++;
    }
    *number = values[again ? position % count : position < count ? position : count - 1];
    return true;
}

static uint slot(int gpu) {
    return gpu < 0 ? MAX_GPUS : (uint)gpu;
}

ull scenario_next(struct entry *entry, int gpu) {
    ull number = 0;
    parse_list(entry->value, atomic_fetch_add(&entry->asked[slot(gpu)], 1), &number);
    return number;
}

ull scenario_last(struct entry *entry, int gpu) {
    uint asked = atomic_load(&entry->asked[slot(gpu)]);
    ull number = 0;
    parse_list(entry->value, asked ? asked - 1 : 0, &number);
    return number;
}

struct entry *scenario_find(struct scenario *scenario, int gpu, const char *key) {
    for (int i = scenario->count - 1; i >= 0; i--) {
        struct entry *entry = &scenario->entries[i];
        bool about = entry->gpu == gpu || (gpu >= 0 && entry->gpu == EVERY_GPU);
        if (about && strcmp(entry->key, key) == 0) {
            return strcmp(entry->value, "unsupported") == 0 ? NULL : entry;
        }
    }
    return NULL;
}

void scenario_missing(const struct scenario *scenario, char *names, size_t size) {
    size_t used = 0;
    *names = 0;
    for (int i = 0; i < scenario->count && used < size; i++) {
        const struct entry *entry = &scenario->entries[i];
        if (strcmp(entry->key, "missing") == 0) {
            used += (size_t)snprintf(names + used, size - used, "%s ", entry->value);
        }
    }
}

/* `PID BYTES NAME`, without a name a process that has died. PID may be `self`, the process that asks. */
static bool parse_process(const char *text, struct process *process) {
    ull pid = (ull)getpid();
    if (strncmp(text, "self ", 5) != 0 && !parse_number(text, "0123456789u", &pid)) {
        return false;
    }
    text += strcspn(text, " ");
    text += strspn(text, " ");
    char bytes[64];
    size_t length = strcspn(text, " ");
    const char *unit = text + length + strspn(text + length, " ");
    if (strncmp(unit, "KiB", 3) == 0 || strncmp(unit, "MiB", 3) == 0 || strncmp(unit, "GiB", 3) == 0) {
        length = (size_t)(unit - text) + 3;
    }
    if (length >= sizeof bytes) {
        return false;
    }
    memcpy(bytes, text, length);
    bytes[length] = 0;
    text += length + strspn(text + length, " ");
    process->pid = (uint)pid;
    process->name = *text ? text : NULL;
    return parse_number(bytes, "", &process->bytes);
}

struct process scenario_process(const struct entry *entry) {
    struct process process = {0};
    parse_process(entry->value, &process);
    return process;
}

/* `PROFILE GPU_INSTANCE BYTES` */
static bool parse_mig(const char *text, struct mig *mig) {
    int read = 0;
    return sscanf(text, "%31s %u %n", mig->profile, &mig->instance, &read) == 2 && read &&
           parse_number(text + read, "", &mig->bytes);
}

struct mig scenario_mig(const struct entry *entry) {
    struct mig mig = {0};
    parse_mig(entry->value, &mig);
    return mig;
}

/* Calls for the next CPU end with false; `*valid` is false where the text is no list of CPUs. */
static bool parse_cpu(const char *text, int *cpu, bool *valid) {
    *valid = true;
    while (*text) {
        int first, last, read = 0;
        if (sscanf(text, "%d%n", &first, &read) != 1 || first < 0) {
            return *valid = false;
        }
        last = first;
        text += read;
        if (*text == '-') {
            if (sscanf(text, "-%d%n", &last, &read) != 1 || last < first) {
                return *valid = false;
            }
            text += read;
        }
        if (*cpu < last) {
            *cpu = *cpu + 1 > first ? *cpu + 1 : first;
            return true;
        }
        if (*text && *text++ != ',') {
            return *valid = false;
        }
    }
    return false;
}

bool scenario_cpu(const struct entry *entry, int *cpu) {
    bool valid;
    return parse_cpu(entry->value, cpu, &valid);
}

static bool valid_cpus(const char *text) {
    int cpu = -1;
    bool valid;
    while (parse_cpu(text, &cpu, &valid)) {
    }
    return valid && cpu >= 0;
}

static bool matches(const char *pattern, const char *key) {
    for (; *pattern; pattern++) {
        if (*pattern == '@') {
            return strcmp(key, "*") == 0 || is_function(key);
        }
        if (*pattern == '#') {
            size_t digits = strspn(key, "0123456789");
            if (!digits) {
                return false;
            }
            key += digits;
        } else if (*key++ != *pattern) {
            return false;
        }
    }
    return !*key;
}

static const struct key *known(int gpu, const char *key) {
    const struct key *keys = gpu == MACHINE ? MACHINE_KEYS : GPU_KEYS;
    size_t count = gpu == MACHINE ? sizeof MACHINE_KEYS / sizeof *keys : sizeof GPU_KEYS / sizeof *keys;
    for (size_t i = 0; i < count; i++) {
        if (matches(keys[i].pattern, key)) {
            return &keys[i];
        }
    }
    return NULL;
}

static bool valid(enum kind kind, const char *value) {
    ull number;
    struct process process;
    struct mig mig;
    switch (kind) {
    case NUMBER:
        return parse_list(value, 0, &number);
    case PROCESS:
        return parse_process(value, &process);
    case MIG:
        return parse_mig(value, &mig);
    case CPUS:
        return valid_cpus(value);
    case FUNCTION:
        return is_function(value);
    default:
        return *value != 0;
    }
}

static char *trim(char *text) {
    text += strspn(text, " \t");
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1])) {
        *--end = 0;
    }
    return text;
}

/* `gpu.3.name` to 3 and `name`, `gpu.*.name` to EVERY_GPU and `name`, anything else to MACHINE and itself. */
static const char *split_gpu(const char *key, int *gpu) {
    int read = 0;
    *gpu = MACHINE;
    if (strncmp(key, "gpu.*.", 6) == 0) {
        *gpu = EVERY_GPU;
        return key + 6;
    }
    if (sscanf(key, "gpu.%d.%n", gpu, &read) == 1 && read) {
        return key + read;
    }
    *gpu = MACHINE;
    return key;
}

/* One `key = value`; what is wrong with it, or NULL. */
static const char *add(struct scenario *scenario, char *line) {
    char *equals = strchr(line, '=');
    if (!equals) {
        return "neither `key = value` nor `include FILE`";
    }
    *equals = 0;
    char *value = trim(equals + 1);
    int gpu;
    const char *key = split_gpu(trim(line), &gpu);
    const struct key *found = known(gpu, key);
    if (!found) {
        return "unknown key";
    }
    if (gpu >= MAX_GPUS || scenario->count == MAX_ENTRIES || strlen(key) >= KEY_SIZE) {
        return "more than this library has room for";
    }
    if (strcmp(value, "unsupported") != 0 && !valid(found->kind, value)) {
        return "this key has no such value";
    }
    struct entry *entry = &scenario->entries[scenario->count++];
    entry->gpu = gpu;
    snprintf(entry->key, sizeof entry->key, "%s", key);
    entry->value = strdup(value);
    return NULL;
}

static bool read_file(struct scenario *scenario, const char *path, int depth, char *mistake, size_t size) {
    FILE *file = fopen(path, "r");
    if (!file || depth > 8) {
        snprintf(mistake, size, "%s: cannot be read, or includes itself", path);
        return file ? fclose(file), false : false;
    }
    char text[4096], written[4096];
    bool good = true;
    for (int number = 1; good && fgets(text, sizeof text, file); number++) {
        text[strcspn(text, "#\r\n")] = 0;
        char *line = trim(text);
        snprintf(written, sizeof written, "%s", line);
        const char *wrong = NULL;
        if (strncmp(line, "include ", 8) == 0) {
            const char *name = trim(line + 8), *slash = strrchr(path, '/');
            char included[PATH_MAX + 1];
            int folder = *name == '/' || !slash ? 0 : (int)(slash - path + 1);
            snprintf(included, sizeof included, "%.*s%s", folder, path, name);
            good = read_file(scenario, included, depth + 1, mistake, size);
        } else if (*line) {
            wrong = add(scenario, line);
        }
        if (wrong) {
            snprintf(mistake, size, "%s:%d: %s: %.200s", path, number, wrong, written);
            good = false;
        }
    }
    fclose(file);
    return good;
}

bool scenario_read(struct scenario *scenario, const char *path, char *mistake, size_t size) {
    scenario->count = 0;
    if (!read_file(scenario, path, 0, mistake, size)) {
        return false;
    }
    struct entry *gpus = scenario_find(scenario, MACHINE, "gpus");
    ull count = gpus ? scenario_last(gpus, MACHINE) : 0;
    if (!gpus || count > MAX_GPUS) {
        snprintf(mistake, size, "%s: `gpus` must be given, and be at most %d", path, MAX_GPUS);
        return false;
    }
    scenario->gpus = (int)count;
    for (int i = 0; i < scenario->count; i++) {
        if (scenario->entries[i].gpu >= scenario->gpus) {
            const struct entry *entry = &scenario->entries[i];
            snprintf(mistake, size, "%s: gpu.%d.%s, but there are %d", path, entry->gpu, entry->key, scenario->gpus);
            return false;
        }
    }
    return true;
}

void scenario_free(struct scenario *scenario) {
    for (int i = 0; i < scenario->count; i++) {
        free(scenario->entries[i].value);
    }
    scenario->count = 0;
}
