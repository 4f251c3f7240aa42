/* The scenario: what the machine is said to have, and how its driver misbehaves. The format is told in scenario.c. */
#ifndef FAKE_NVML_SCENARIO_H
#define FAKE_NVML_SCENARIO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "abi.h"

enum { MAX_GPUS = 16, MAX_ENTRIES = 2048, KEY_SIZE = 96 };
enum { MACHINE = -1, EVERY_GPU = -2 }; /* beside the numbers of GPUs */

/* One line. Each GPU walks through a list of values by itself; the last slot is the machine's. */
struct entry {
    int gpu;
    char key[KEY_SIZE];
    char *value;
    atomic_uint asked[MAX_GPUS + 1];
};

struct scenario {
    struct entry entries[MAX_ENTRIES];
    int count;
    int gpus; /* the value of `gpus`, absent ones included */
};

struct process {
    uint pid;
    ull bytes;
    const char *name; /* NULL for a process that has died */
};

struct mig {
    char profile[32];
    ull bytes;
    uint instance;
};

/* Reads a file. On a mistake false, and what is wrong where in `mistake`. */
bool scenario_read(struct scenario *scenario, const char *path, char *mistake, size_t size);
void scenario_free(struct scenario *scenario);

/* The last line for this key that is about this GPU; NULL without one or where it says `unsupported`. */
struct entry *scenario_find(struct scenario *scenario, int gpu, const char *key);

/* The next value of a list, or the only one. `gpu` says whose turn it is. */
ull scenario_next(struct entry *entry, int gpu);
/* The value that scenario_next gave last, or will give first. */
ull scenario_last(struct entry *entry, int gpu);

/* Every function that a line of `missing` names, with spaces between. */
void scenario_missing(const struct scenario *scenario, char *names, size_t size);

struct process scenario_process(const struct entry *entry);
struct mig scenario_mig(const struct entry *entry);
/* The next CPU of a list such as `0-55,112-167` after `*cpu`, which is -1 at first. */
bool scenario_cpu(const struct entry *entry, int *cpu);

bool is_function(const char *name); /* is it in this library? */

#endif
