/* A stand-in for libcuda.so.1, driven by the environment: what a machine without NVML still tells.
 *
 * CUDA_STUB_INIT     what cuInit answers (0)
 * CUDA_STUB_VERSION  13000 for CUDA 13.0
 * CUDA_STUB_GPUS     name|sixteen bytes of its UUID, in hex|major.minor|memory in MiB;...
 *
 * It has no function that makes a context: who asks for one doesn't find it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 1, NOT_INITIALIZED = 3, INVALID_DEVICE = 101, MAJOR = 75, MINOR = 76 };

typedef struct { char name[256], uuid[33]; int major, minor; unsigned long long memory; } gpu;

static int started;

static int number(const char *name) {
    const char *value = getenv(name);
    return value ? atoi(value) : OK;
}

static int find(int wanted, gpu *found) {
    const char *rest = getenv("CUDA_STUB_GPUS");
    for (int index = 0; rest && *rest; index++) {
        if (index == wanted) {
            const char *form = "%255[^|]|%32[^|]|%d.%d|%llu";
            int read = sscanf(rest, form, found->name, found->uuid, &found->major, &found->minor, &found->memory);
            return read == 5 ? OK : INVALID_VALUE;
        }
        rest = strchr(rest, ';');
        if (rest) rest++;
    }
    return INVALID_DEVICE;
}

int cuDriverGetVersion(int *version) { *version = number("CUDA_STUB_VERSION"); return OK; }

int cuInit(unsigned flags) {
    int answer = flags ? INVALID_VALUE : number("CUDA_STUB_INIT");
    started = answer == OK;
    return answer;
}

int cuDeviceGetCount(int *count) {
    gpu found;
    if (!started) return NOT_INITIALIZED;
    for (*count = 0; find(*count, &found) == OK; (*count)++) {}
    return OK;
}

/* A device's handle is 10 + its index, so that who takes one for the other is found out. */
int cuDeviceGet(int *device, int index) {
    gpu found;
    *device = 10 + index;
    return started ? find(index, &found) : NOT_INITIALIZED;
}

int cuDeviceGetName(char *name, int length, int device) {
    gpu found;
    int error = find(device - 10, &found);
    if (!error) snprintf(name, (size_t)length, "%s", found.name);
    return error;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    gpu found;
    int error = find(device - 10, &found);
    if (!error) *bytes = (size_t)found.memory << 20;
    return error;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    gpu found;
    int error = find(device - 10, &found);
    if (!error) *value = attribute == MAJOR ? found.major : attribute == MINOR ? found.minor : -1;
    return error;
}

static int uuid(unsigned char *bytes, int device) {
    gpu found;
    int error = find(device - 10, &found);
    for (int n = 0; !error && n < 16; n++) {
        unsigned byte;
        if (sscanf(found.uuid + 2 * n, "%2x", &byte) != 1) return INVALID_VALUE;
        bytes[n] = (unsigned char)byte;
    }
    return error;
}

#ifdef OLD_DRIVER
int cuDeviceGetUuid(unsigned char *bytes, int device) { return uuid(bytes, device); }
#else
int cuDeviceGetUuid_v2(unsigned char *bytes, int device) { return uuid(bytes, device); }
#endif
