/* A stand-in for libnvidia-ml.so.1, in NVML's own ABI, for the real pynvml: what a device answers is read anew at each
 * call from the text file that NVML_STUB names, one `name=value` a line, so that faults can begin while it is used.
 * `err.FUNCTION=N` lets that function return N. Without the file all is well. It proves what we make of NVML's answers;
 * it says nothing about a driver. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned int u32;
typedef unsigned long long u64;
#ifdef NVML_HEADER /* the same functions against NVIDIA's own prototypes and structs: compiled, never linked */
#include <nvml.h>
typedef nvmlReturn_t ret;
typedef nvmlDevice_t dev;
typedef nvmlEventSet_t set;
typedef nvmlRowRemapperHistogramValues_t histogram;
typedef nvmlEccSramErrorStatus_v1_t sram;
typedef nvmlMemory_v2_t memory;
typedef nvmlProcessInfo_t process;
typedef nvmlFieldValue_t field;
typedef nvmlEventData_t event;
typedef nvmlRepairStatus_t repair;
typedef nvmlGpuFabricInfo_v2_t fabric;
typedef nvmlGpuFabricInfoV_t fabric_of_any_version;
_Static_assert(NVML_FI_DEV_GET_GPU_RECOVERY_ACTION == 230 && nvmlEventTypeXidCriticalError == 8, "other numbers");
#else
typedef int ret;
typedef void *dev;
typedef void *set;
typedef struct { u32 max, high, partial, low, none; } histogram;
typedef struct {
    u32 version;
    u64 agg_parity, agg_secded, agg_cor, vol_parity, vol_secded, vol_cor, l2, sm, mcu, pcie, other;
    u32 bThresholdExceeded;
} sram;
typedef struct { u32 version; u64 total, reserved, free, used; } memory;
typedef struct { u32 pid; u64 used; u32 gpu, compute; } process;
typedef struct {
    u32 fieldId, scopeId;
    long long timestamp, latency;
    int valueType;
    ret nvmlReturn;
    union { double d; u32 uiVal; u64 all; } value;
} field;
typedef struct { dev device; u64 eventType, eventData; u32 gpu, compute; } event;
typedef struct { u32 version, bChannelRepairPending, bTpcRepairPending; } repair;
typedef struct { u32 version; unsigned char cluster[16]; ret status; u32 clique; unsigned char state; u32 health; } fabric;
typedef fabric fabric_of_any_version;
#endif
#define SAME(what, size) _Static_assert(sizeof(what) == (size), "NVIDIA's " #what " has another size")
SAME(histogram, 20);
SAME(sram, 104);
SAME(memory, 40);
SAME(process, 24);
SAME(field, 40);
SAME(event, 32);
SAME(repair, 12);
SAME(fabric, 36);

static int given_xids;

static int text(const char *name, char *into, int size) {
    const char *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512];
    int found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        char *equals = strchr(line, '=');
        if (!equals) continue;
        *equals = 0;
        if (strcmp(line, name)) continue;
        snprintf(into, size, "%s", equals + 1);
        into[strcspn(into, "\n")] = 0;
        found = 1;
    }
    fclose(file);
    return found;
}

static long long num(const char *name, long long otherwise) {
    char value[256];
    return text(name, value, sizeof value) ? atoll(value) : otherwise;
}

static ret err(const char *function) {
    char name[256];
    snprintf(name, sizeof name, "err.%s", function);
    return (ret)num(name, num("lost", 0) && strncmp(function, "nvmlDevice", 10) == 0 &&
                    strncmp(function, "nvmlDeviceGetHandle", 19) && strncmp(function, "nvmlDeviceGetCount", 18)
                    ? 15 : 0);
}

#define START do { ret code = err(__func__); if (code) return code; } while (0)
#define ONE(function, name, otherwise) \
    ret function(dev d, u32 *value) { START; *value = (u32)num(name, otherwise); return 0; }
#define TWO(function, first, second, otherwise) \
    ret function(dev d, u32 *a, u32 *b) { START; *a = (u32)num(first, otherwise); *b = (u32)num(second, otherwise); return 0; }

ret nvmlInitWithFlags(u32 flags) { START; return 0; }
ret nvmlInit_v2(void) { START; return 0; }
ret nvmlShutdown(void) { return 0; }
ret nvmlSystemGetDriverVersion(char *into, u32 size) {
    START;
    if (!text("driver", into, size)) snprintf(into, size, "580.95.05");
    return 0;
}
ret nvmlSystemGetCudaDriverVersion(int *value) { START; *value = (int)num("cuda", 13000); return 0; }
ret nvmlSystemGetCudaDriverVersion_v2(int *value) { START; *value = (int)num("cuda", 13000); return 0; }
ret nvmlDeviceGetCount_v2(u32 *value) { START; *value = (u32)num("count", 1); return 0; }
ret nvmlDeviceGetHandleByIndex_v2(u32 index, dev *d) { START; *d = (dev)(size_t)(index + 1); return 0; }
ret nvmlDeviceGetUUID(dev d, char *into, u32 size) {
    const char *name = getenv("NVML_STUB_NAME");
    char machine[64] = "stub";
    START;
    if (name) snprintf(machine, sizeof machine, "%s", name);
    text("uuid", machine, sizeof machine);
    snprintf(into, size, "GPU-%s-%d", machine, (int)(size_t)d - 1);
    return 0;
}
ret nvmlDeviceGetName(dev d, char *into, u32 size) { START; snprintf(into, size, "Stub"); return 0; }
TWO(nvmlDeviceGetEccMode, "ecc", "ecc_pending", 1)
TWO(nvmlDeviceGetMigMode, "mig", "mig_pending", 0)
ret nvmlDeviceGetTotalEccErrors(dev d, u32 type, u32 counter, u64 *value) {
    START;
    *value = (u64)num(counter ? "ecc_aggregate" : "ecc_volatile", 0);
    return 0;
}
ret nvmlDeviceGetRemappedRows(dev d, u32 *cor, u32 *unc, u32 *pending, u32 *failed) {
    START;
    *cor = (u32)num("remap_cor", 0), *unc = (u32)num("remap_unc", 0);
    *pending = (u32)num("remap_pending", 0), *failed = (u32)num("remap_failed", 0);
    return 0;
}
ret nvmlDeviceGetRowRemapperHistogram(dev d, histogram *h) {
    START;
    memset(h, 0, sizeof *h);
    h->max = 640, h->none = (u32)num("banks_none", 0);
    return 0;
}
ret nvmlDeviceGetSramEccErrorStatus(dev d, sram *s) { START; s->bThresholdExceeded = (u32)num("sram", 0); return 0; }
ONE(nvmlDeviceGetRetiredPagesPendingStatus, "retired", 0)
ret nvmlDeviceGetCurrentClocksEventReasons(dev d, u64 *value) { START; *value = (u64)num("throttle", 1); return 0; }
ret nvmlDeviceGetTemperature(dev d, u32 sensor, u32 *value) { START; *value = (u32)num("temperature", 40); return 0; }
ret nvmlDeviceGetTemperatureThreshold(dev d, u32 kind, u32 *value) { START; *value = 90; return 0; }
ONE(nvmlDeviceGetCurrPcieLinkWidth, "pcie", 16)
ONE(nvmlDeviceGetMaxPcieLinkWidth, "pcie_max", 16)
ONE(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation", 5)
ONE(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max", 5)
ONE(nvmlDeviceGetEnforcedPowerLimit, "power", 700000)
ONE(nvmlDeviceGetPowerManagementDefaultLimit, "power_default", 700000)
ONE(nvmlDeviceGetPcieReplayCounter, "replays", 0)
ret nvmlDeviceGetNvLinkState(dev d, u32 link, u32 *value) {
    START;
    if (link >= num("nvlinks", 4)) return 2;
    *value = link >= num("nvlinks_down", 0);
    return 0;
}
ret nvmlDeviceGetRepairStatus(dev d, repair *r) {
    START;
    r->bChannelRepairPending = (u32)num("repair_channel", 0), r->bTpcRepairPending = (u32)num("repair_tpc", 0);
    return 0;
}
ret nvmlDeviceGetGpuFabricInfoV(dev d, fabric_of_any_version *given) {
    START;
    fabric *f = (fabric *)given;
    f->state = (unsigned char)num("fabric", 3), f->status = (ret)num("fabric_status", 0);
    return 0;
}
ret nvmlDeviceGetMaxMigDeviceCount(dev d, u32 *count) { START; *count = 7; return 0; }
/* Every other place is empty, as on a device whose slices were made and removed again. */
ret nvmlDeviceGetMigDeviceHandleByIndex(dev d, u32 index, dev *slice) {
    START;
    if (index % 2 || (long long)index / 2 >= num("slices", 0)) return 6;
    *slice = (dev)(size_t)(100 + index);
    return 0;
}
ret nvmlDeviceValidateInforom(dev d) { START; return 0; }
ret nvmlDeviceGetCudaComputeCapability(dev d, int *major, int *minor) { START; *major = 9, *minor = 0; return 0; }
ret nvmlDeviceGetMemoryInfo_v2(dev d, memory *m) {
    START;
    m->total = 80ull << 30, m->reserved = 1ull << 29, m->free = (u64)num("free_gib", 79) << 30;
    if ((size_t)d >= 100) m->free = (u64)num(d == (dev)(size_t)100 ? "slice_gib" : "other_slices_gib", 9) << 30;
    m->used = m->total - m->free;
    return 0;
}
ret nvmlDeviceGetComputeRunningProcesses_v3(dev d, u32 *count, process *into) {
    START;
    u32 pid = (u32)num("pid", 0), room = *count;
    *count = pid ? 1 : 0;
    if (!pid) return 0;
    if (room < 1 || !into) return 7;
    memset(into, 0, sizeof *into);
    into->pid = pid;
    return 0;
}
ret nvmlDeviceGetFieldValues(dev d, int count, field *values) {
    START;
    for (int i = 0; i < count; i++) {
        values[i].nvmlReturn = values[i].fieldId == 230 ? (ret)num("err.field", 0) : 3;
        values[i].valueType = 1;
        values[i].value.uiVal = (u32)num("recovery", 0);
    }
    return 0;
}
ret nvmlEventSetCreate(set *made) { START; *made = (set)1; given_xids = 0; return 0; }
ret nvmlDeviceRegisterEvents(dev d, u64 types, set to) { START; return 0; }
ret nvmlEventSetWait_v2(set of, event *e, u32 milliseconds) {
    START;
    char list[256];
    char *at = list;
    if (!text("xids", list, sizeof list)) return 10;
    for (int skip = given_xids; skip && at; skip--) {
        at = strchr(at, ',');
        if (at) at++;
    }
    if (!at || !*at) return 10;
    given_xids++;
    memset(e, 0, sizeof *e);
    e->device = (dev)1, e->eventType = 8, e->eventData = strtoull(at, NULL, 10);
    return 0;
}
ret nvmlEventSetFree(set of) { return 0; }
