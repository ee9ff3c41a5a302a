/* A stand-in for libnvidia-ml.so.1, driven by the environment. No GPU or driver is needed.
 *
 * NVML_STUB_INIT    what nvmlInit answers (0)
 * NVML_STUB_DRIVER  the driver's version; "!CODE" answers with that error
 * NVML_STUB_CUDA    13000 for CUDA 13.0; "!CODE" answers with that error
 * NVML_STUB_COUNT   what nvmlDeviceGetCount answers (0)
 * NVML_STUB_GPUS    name|uuid|major.minor|memory in MiB|error of its handle|MIG uuid,MIG uuid;...
 *                   no memory: NotSupported; no MIG uuids: NotSupported; "none": MIG is on and has no instance
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, FIELDS = 6, MIG_PLACES = 7, MIG = 1000 };

typedef struct { char field[FIELDS][256]; } gpu;
typedef struct { unsigned long long total, free, used; } memory;

static int code(const char *name) {
    const char *value = getenv(name);
    return value ? atoi(value) : OK;
}

/* The value of a variable, or the error that it asks for. */
static int told(const char *name, const char **value) {
    *value = getenv(name);
    if (!*value) return NOT_SUPPORTED;
    return **value == '!' ? atoi(*value + 1) : OK;
}

/* Splits without strtok, which skips empty fields. */
static const char *next(const char *from, char end, char *into, size_t size) {
    const char *stop = strchr(from, end);
    size_t length = stop ? (size_t)(stop - from) : strlen(from);
    snprintf(into, size, "%.*s", (int)length, from);
    return stop ? stop + 1 : NULL;
}

static int find(unsigned wanted, gpu *found) {
    const char *rest = getenv("NVML_STUB_GPUS");
    char text[1024];
    for (unsigned index = 0; rest && *rest; index++) {
        rest = next(rest, ';', text, sizeof text);
        if (index != wanted) continue;
        memset(found, 0, sizeof *found);
        const char *field = text;
        for (int n = 0; n < FIELDS && field; n++) field = next(field, '|', found->field[n], sizeof found->field[n]);
        return OK;
    }
    return INVALID_ARGUMENT;
}

/* A handle is 1 + the GPU's index, or for a MIG instance MIG + index * MIG_PLACES + place. */
static int of(void *handle, gpu *found) {
    uintptr_t number = (uintptr_t)handle;
    return find(number >= MIG ? (unsigned)(number - MIG) / MIG_PLACES : (unsigned)number - 1, found);
}

static int mig_uuid(const gpu *found, unsigned place, char *into, size_t size) {
    const char *rest = strcmp(found->field[5], "none") ? found->field[5] : "";
    for (unsigned n = 0; rest && *rest; n++) {
        rest = next(rest, ',', into, size);
        if (n == place) return OK;
    }
    return NOT_FOUND;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return code("NVML_STUB_INIT"); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int error) { (void)error; return "an error of the stub"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    const char *value;
    int error = told("NVML_STUB_DRIVER", &value);
    if (!error) snprintf(version, length, "%s", value);
    return error;
}

/* v1 answers what NVML was built for; nobody should ask it. */
int nvmlSystemGetCudaDriverVersion(int *version) { *version = 99000; return OK; }

#ifndef OLD_DRIVER
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    const char *value;
    int error = told("NVML_STUB_CUDA", &value);
    if (!error) *version = atoi(value);
    return error;
}

#endif

int nvmlDeviceGetCount_v2(unsigned *count) {
    gpu found;
    for (*count = 0; find(*count, &found) == OK; (*count)++) {}
    return code("NVML_STUB_COUNT");
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    gpu found;
    int error = find(index, &found);
    *handle = (void *)(uintptr_t)(index + 1);
    return error ? error : atoi(found.field[4]);
}

int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    gpu found;
    int error = of(handle, &found);
    if (!error) snprintf(name, length, "%s", found.field[0]);
    return error;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    gpu found;
    uintptr_t number = (uintptr_t)handle;
    int error = of(handle, &found);
    if (error) return error;
    if (number >= MIG) return mig_uuid(&found, (unsigned)(number - MIG) % MIG_PLACES, uuid, length);
    snprintf(uuid, length, "%s", found.field[1]);
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    gpu found;
    int error = of(handle, &found);
    if (!error && sscanf(found.field[2], "%d.%d", major, minor) != 2) return NOT_SUPPORTED;
    return error;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory *info) {
    gpu found;
    int error = of(handle, &found);
    if (error) return error;
    if (!*found.field[3]) return NOT_SUPPORTED;
    info->total = strtoull(found.field[3], NULL, 10) << 20;
    info->free = info->total;
    info->used = 0;
    return OK;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    gpu found;
    int error = of(handle, &found);
    if (error) return error;
    if (!*found.field[5]) return NOT_SUPPORTED;
    *current = *pending = 1;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    (void)handle;
    *count = MIG_PLACES;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned place, void **instance) {
    gpu found;
    char uuid[256];
    int error = of(handle, &found);
    if (error) return error;
    *instance = (void *)(MIG + ((uintptr_t)handle - 1) * MIG_PLACES + place);
    return mig_uuid(&found, place, uuid, sizeof uuid);
}
