/* A libnvidia-ml.so.1 whose GPUs stand in a file, read again whenever it was replaced: $FAKE_NVML_STATE, or where the
 * container runtime of a node with GPUs puts it.
 *
 * One record per line, fields separated by blanks; the last field of gpu and mig runs to the end of the line.
 *
 *   driver VERSION
 *   init CODE                     what nvmlInit returns
 *   events CODE                   what nvmlDeviceRegisterEvents returns
 *   memory_v2 CODE                what nvmlDeviceGetMemoryInfo_v2 returns, as drivers without it do
 *   reloads N                     another N than at nvmlInit: everything is UNINITIALIZED until the next nvmlInit
 *   gpu INDEX UUID ERROR HANG_MS MEMORY_CODE MIG TOTAL RESERVED USED UTIL CELSIUS MILLIWATT ECC REMAP_FAILED PRODUCT
 *   mig INDEX SLOT UUID TOTAL RESERVED USED PRODUCT
 *   process INDEX SLOT PID BYTES  SLOT -1 is the whole GPU; BYTES -1 is "not available"
 *   xid SERIAL INDEX CODE         an event; serials grow
 *
 * Other records are for other readers.
 */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define GPUS 16
#define SLOTS 7
#define PROCESSES 256
#define XIDS 64
#define SETS 64
#define NAME 96
#define LINE 512
#define DEFAULT_STATE "/run/fake-nvidia/driver"

typedef struct {
    int there;
    char uuid[NAME], product[NAME];
    unsigned long long total, reserved, used;
} Memory;

typedef struct {
    Memory own, mig[SLOTS];
    int error, memory_code, mig_on, remap_failed;
    unsigned hang_ms, utilisation, celsius, milliwatt;
    unsigned long long ecc;
} Gpu;

typedef struct {
    char driver[NAME];
    int init, events, memory_v2, gpus, processes, xids;
    long long reloads;
    Gpu gpu[GPUS];
    struct { int gpu, slot; unsigned pid; long long bytes; } process[PROCESSES];
    struct { unsigned long long serial; int gpu; unsigned long long code; } xid[XIDS];
} State;

/* What a handle points at: only its address matters. */
static char handles[GPUS][SLOTS + 1];
static struct { int used; unsigned gpus; unsigned long long seen; } sets[SETS];

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static State state;
static struct stat read_from;
static long long initialised = -1;
static int references;

static void parse(State *to, FILE *from) {
    char line[LINE], uuid[NAME], rest[NAME];
    memset(to, 0, sizeof *to);
    while (fgets(line, sizeof line, from)) {
        int index, slot;
        Gpu one = {0};
        Memory part = {.there = 1};
        if (sscanf(line, "driver %95s", to->driver) == 1 || sscanf(line, "init %d", &to->init) == 1 ||
            sscanf(line, "events %d", &to->events) == 1 ||
            sscanf(line, "memory_v2 %d", &to->memory_v2) == 1 || sscanf(line, "reloads %lld", &to->reloads) == 1)
            continue;
        if (sscanf(line, "gpu %d %95s %d %u %d %d %llu %llu %llu %u %u %u %llu %d %95[^\n]", &index, uuid, &one.error,
                   &one.hang_ms, &one.memory_code, &one.mig_on, &part.total, &part.reserved, &part.used,
                   &one.utilisation, &one.celsius, &one.milliwatt, &one.ecc, &one.remap_failed, rest) == 15 &&
            index >= 0 && index < GPUS) {
            strcpy(part.uuid, uuid);
            strcpy(part.product, rest);
            one.own = part;
            to->gpu[index] = one;
            if (index >= to->gpus) to->gpus = index + 1;
        } else if (sscanf(line, "mig %d %d %95s %llu %llu %llu %95[^\n]", &index, &slot, uuid, &part.total,
                          &part.reserved, &part.used, rest) == 7 &&
                   index >= 0 && index < GPUS && slot >= 0 && slot < SLOTS) {
            strcpy(part.uuid, uuid);
            strcpy(part.product, rest);
            to->gpu[index].mig[slot] = part;
        } else if (to->processes < PROCESSES && strncmp(line, "process ", 8) == 0) {
            int n = to->processes;
            if (sscanf(line, "process %d %d %u %lld", &to->process[n].gpu, &to->process[n].slot, &to->process[n].pid,
                       &to->process[n].bytes) == 4)
                to->processes++;
        } else if (to->xids < XIDS && strncmp(line, "xid ", 4) == 0) {
            int n = to->xids;
            if (sscanf(line, "xid %llu %d %llu", &to->xid[n].serial, &to->xid[n].gpu, &to->xid[n].code) == 3)
                to->xids++;
        }
    }
}

/* Call with the lock held. The file is replaced by rename, so its inode tells. */
static int refresh(void) {
    const char *path = getenv("FAKE_NVML_STATE");
    struct stat now;
    if (path == NULL) path = DEFAULT_STATE;
    if (stat(path, &now) != 0) return 0;
    if (now.st_ino == read_from.st_ino && now.st_mtim.tv_sec == read_from.st_mtim.tv_sec &&
        now.st_mtim.tv_nsec == read_from.st_mtim.tv_nsec)
        return 1;
    FILE *file = fopen(path, "r");
    if (file == NULL) return 0;
    parse(&state, file);
    fclose(file);
    read_from = now;
    return 1;
}

static void sleep_ms(unsigned ms) {
    struct timespec time = {ms / 1000, (long)(ms % 1000) * 1000000L};
    nanosleep(&time, NULL);
}

/* Whether calls work at all. */
static nvmlReturn_t driver(State *copy) {
    nvmlReturn_t code = NVML_SUCCESS;
    pthread_mutex_lock(&lock);
    if (!refresh()) code = NVML_ERROR_DRIVER_NOT_LOADED;
    else if (initialised != state.reloads) code = NVML_ERROR_UNINITIALIZED;
    else if (copy != NULL) *copy = state;
    pthread_mutex_unlock(&lock);
    return code;
}

typedef struct { int index, slot; Gpu gpu; const Memory *memory; } Device;

/* What stands behind a handle, after its hang, which ends when the file says so. */
static nvmlReturn_t find(nvmlDevice_t handle, Device *to) {
    ptrdiff_t offset = (char *)handle - &handles[0][0];
    if (handle == NULL || offset < 0 || offset >= (ptrdiff_t)sizeof handles) return NVML_ERROR_INVALID_ARGUMENT;
    to->index = (int)(offset / (SLOTS + 1));
    to->slot = (int)(offset % (SLOTS + 1)) - 1;
    for (unsigned slept = 0;; slept += 10) {
        nvmlReturn_t code = NVML_SUCCESS;
        pthread_mutex_lock(&lock);
        if (!refresh()) code = NVML_ERROR_DRIVER_NOT_LOADED;
        else if (initialised != state.reloads) code = NVML_ERROR_UNINITIALIZED;
        else to->gpu = state.gpu[to->index];
        pthread_mutex_unlock(&lock);
        if (code != NVML_SUCCESS) return code;
        if (slept >= to->gpu.hang_ms) break;
        sleep_ms(10);
    }
    if (!to->gpu.own.there) return NVML_ERROR_GPU_IS_LOST;
    if (to->gpu.error) return (nvmlReturn_t)to->gpu.error;
    to->memory = to->slot < 0 ? &to->gpu.own : &to->gpu.mig[to->slot];
    return to->memory->there ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

static nvmlReturn_t text(const char *from, char *to, unsigned length) {
    if (to == NULL) return NVML_ERROR_INVALID_ARGUMENT;
    if (strlen(from) >= length) return NVML_ERROR_INSUFFICIENT_SIZE;
    strcpy(to, from);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    nvmlReturn_t code = NVML_SUCCESS;
    (void)flags;
    pthread_mutex_lock(&lock);
    if (!refresh()) code = NVML_ERROR_DRIVER_NOT_LOADED;
    else if (state.init) code = (nvmlReturn_t)state.init;
    else if (initialised == state.reloads) references++;
    else {
        references = 1;
        initialised = state.reloads;
        memset(sets, 0, sizeof sets);
    }
    pthread_mutex_unlock(&lock);
    return code;
}

nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void) {
    nvmlReturn_t code = NVML_SUCCESS;
    pthread_mutex_lock(&lock);
    if (initialised < 0) code = NVML_ERROR_UNINITIALIZED;
    else if (--references <= 0) initialised = -1;
    pthread_mutex_unlock(&lock);
    return code;
}

const char *nvmlErrorString(nvmlReturn_t code) {
    switch (code) {
    case NVML_SUCCESS: return "The operation was successful";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires reset";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    State copy;
    nvmlReturn_t code = driver(&copy);
    return code == NVML_SUCCESS ? text(copy.driver, version, length) : code;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    State copy;
    nvmlReturn_t code = driver(&copy);
    if (code == NVML_SUCCESS) *count = (unsigned)copy.gpus;
    return code;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    State copy;
    Device found;
    nvmlReturn_t code = driver(&copy);
    if (code != NVML_SUCCESS) return code;
    if (index >= (unsigned)copy.gpus) return NVML_ERROR_INVALID_ARGUMENT;
    *device = (nvmlDevice_t)&handles[index][0];
    /* The real one looks for the GPU too. */
    return find(*device, &found);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length) {
    Device found;
    nvmlReturn_t code = find(device, &found);
    return code == NVML_SUCCESS ? text(found.memory->uuid, uuid, length) : code;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    Device found;
    nvmlReturn_t code = find(device, &found);
    return code == NVML_SUCCESS ? text(found.memory->product, name, length) : code;
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index) {
    Device found;
    nvmlReturn_t code = find(device, &found);
    if (code == NVML_SUCCESS) *index = (unsigned)found.index;
    return code;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    Device found;
    nvmlReturn_t code = find(device, &found);
    if (code != NVML_SUCCESS) return code;
    if (found.gpu.memory_code) return (nvmlReturn_t)found.gpu.memory_code;
    memory->total = found.memory->total;
    memory->used = found.memory->reserved + found.memory->used;
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    State copy;
    Device found;
    nvmlReturn_t code = find(device, &found);
    if (code != NVML_SUCCESS || (code = driver(&copy)) != NVML_SUCCESS) return code;
    if (copy.memory_v2) return (nvmlReturn_t)copy.memory_v2;
    if (memory->version != nvmlMemory_v2) return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (found.gpu.memory_code) return (nvmlReturn_t)found.gpu.memory_code;
    memory->total = found.memory->total;
    memory->reserved = found.memory->reserved;
    memory->used = found.memory->used;
    memory->free = memory->total - memory->reserved - memory->used;
    return NVML_SUCCESS;
}

/* Sensors belong to the whole GPU. */
static nvmlReturn_t whole(nvmlDevice_t device, Device *found) {
    nvmlReturn_t code = find(device, found);
    return code == NVML_SUCCESS && found->slot >= 0 ? NVML_ERROR_NOT_SUPPORTED : code;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    Device found;
    nvmlReturn_t code = whole(device, &found);
    if (code != NVML_SUCCESS) return code;
    if (found.gpu.mig_on) return NVML_ERROR_NOT_SUPPORTED;
    utilization->gpu = found.gpu.utilisation;
    utilization->memory = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *celsius) {
    Device found;
    nvmlReturn_t code = whole(device, &found);
    (void)sensor;
    if (code == NVML_SUCCESS) *celsius = found.gpu.celsius;
    return code;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatt) {
    Device found;
    nvmlReturn_t code = whole(device, &found);
    if (code == NVML_SUCCESS) *milliwatt = found.gpu.milliwatt;
    return code;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                         unsigned long long *count) {
    Device found;
    nvmlReturn_t code = whole(device, &found);
    (void)counter;
    if (code == NVML_SUCCESS) *count = type == NVML_MEMORY_ERROR_TYPE_UNCORRECTED ? found.gpu.ecc : 0;
    return code;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected,
                                       unsigned int *pending, unsigned int *failed) {
    Device found;
    nvmlReturn_t code = whole(device, &found);
    if (code != NVML_SUCCESS) return code;
    *corrected = *uncorrected = *pending = 0;
    *failed = (unsigned)found.gpu.remap_failed;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    Device found;
    nvmlReturn_t code = whole(device, &found);
    if (code == NVML_SUCCESS) *current = *pending = (unsigned)found.gpu.mig_on;
    return code;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count) {
    Device found;
    nvmlReturn_t code = whole(device, &found);
    if (code == NVML_SUCCESS) *count = SLOTS;
    return code;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig) {
    Device found;
    nvmlReturn_t code = whole(device, &found);
    if (code != NVML_SUCCESS) return code;
    if (index >= SLOTS) return NVML_ERROR_INVALID_ARGUMENT;
    if (!found.gpu.mig_on || !found.gpu.mig[index].there) return NVML_ERROR_NOT_FOUND;
    *mig = (nvmlDevice_t)&handles[found.index][index + 1];
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *to) {
    State copy;
    Device found;
    unsigned there = 0, room = *count;
    nvmlReturn_t code = find(device, &found);
    if (code != NVML_SUCCESS || (code = driver(&copy)) != NVML_SUCCESS) return code;
    for (int n = 0; n < copy.processes; n++) {
        if (copy.process[n].gpu != found.index || (found.slot >= 0 && copy.process[n].slot != found.slot)) continue;
        if (to != NULL && there < room) {
            to[there].pid = copy.process[n].pid;
            to[there].usedGpuMemory = (unsigned long long)copy.process[n].bytes;
            to[there].gpuInstanceId = copy.process[n].slot < 0 ? ~0U : (unsigned)copy.process[n].slot;
            to[there].computeInstanceId = copy.process[n].slot < 0 ? ~0U : 0;
        }
        there++;
    }
    *count = there;
    return there > room || (to == NULL && there > 0) ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types) {
    Device found;
    nvmlReturn_t code = whole(device, &found);
    if (code == NVML_SUCCESS) *types = nvmlEventTypeXidCriticalError;
    return code;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    nvmlReturn_t code = driver(NULL);
    if (code != NVML_SUCCESS) return code;
    code = NVML_ERROR_MEMORY;
    pthread_mutex_lock(&lock);
    for (int n = 0; n < SETS && code != NVML_SUCCESS; n++) {
        if (sets[n].used) continue;
        sets[n].used = 1;
        sets[n].gpus = 0;
        sets[n].seen = 0;
        for (int i = 0; i < state.xids; i++)
            if (state.xid[i].serial > sets[n].seen) sets[n].seen = state.xid[i].serial;
        *set = (nvmlEventSet_t)&sets[n];
        code = NVML_SUCCESS;
    }
    pthread_mutex_unlock(&lock);
    return code;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
    State copy;
    Device found;
    nvmlReturn_t code = whole(device, &found);
    ptrdiff_t n = (char *)set - (char *)sets;
    (void)types;
    if (code != NVML_SUCCESS || (code = driver(&copy)) != NVML_SUCCESS) return code;
    if (copy.events) return (nvmlReturn_t)copy.events;
    sets[(size_t)n / sizeof sets[0]].gpus |= 1U << found.index;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms) {
    size_t n = (size_t)((char *)set - (char *)sets) / sizeof sets[0];
    for (unsigned waited = 0;; waited += 20) {
        nvmlReturn_t code = driver(NULL);
        if (code != NVML_SUCCESS) return code;
        pthread_mutex_lock(&lock);
        for (int i = 0; i < state.xids; i++) {
            if (state.xid[i].serial <= sets[n].seen || !(sets[n].gpus >> state.xid[i].gpu & 1U)) continue;
            sets[n].seen = state.xid[i].serial;
            memset(data, 0, sizeof *data);
            data->device = (nvmlDevice_t)&handles[state.xid[i].gpu][0];
            data->eventType = nvmlEventTypeXidCriticalError;
            data->eventData = state.xid[i].code;
            data->gpuInstanceId = data->computeInstanceId = ~0U;
            pthread_mutex_unlock(&lock);
            return NVML_SUCCESS;
        }
        pthread_mutex_unlock(&lock);
        if (waited >= timeout_ms) return NVML_ERROR_TIMEOUT;
        sleep_ms(20);
    }
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    sets[(size_t)((char *)set - (char *)sets) / sizeof sets[0]].used = 0;
    return NVML_SUCCESS;
}
