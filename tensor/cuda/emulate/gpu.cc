/* tensor/cuda/emulate/gpu.cc: a device of host memory that only kernels and copies may touch: at
 * any other time its pages are closed, so that code which reads a device tensor on the host stops
 * here as it would on a GPU. What is queued on a lane runs when the host waits, not before. */
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <sys/mman.h>
#include <vector>

#include "base/hash.h"
#include "tensor/cuda/emulate/lanes.h"
#include "tensor/cuda/gpu_stream.cuh"

namespace
{

struct task { /* of a lane: work, or what it waits for */
    std::function<void()> work;
    kin_emulated_event *event; /* NULL: none */
    unsigned long passed;      /* starts when the event has passed so many signals */
};
typedef std::deque<task> lane;

} // namespace

struct kin_gpu_recording {
    std::vector<std::function<void()>> work;
    std::vector<char> kept; /* never grows */
};

struct kin_gpu_range {
    char *base;
    size_t reserved, committed;
    kin_gpu_range *next;
    std::shared_ptr<lane> lanes[KIN_GPU_LANES];
};

namespace
{

kin_gpu_range *ranges;
/* one for all contexts of a thread, as with CUDA */
thread_local std::shared_ptr<lane> compute = std::make_shared<lane>();
kin_emulated_order order;
constexpr size_t queued_most = 512;

std::mutex memory_lock; /* of the two below */
std::map<void *, size_t> allocated, pinned;
size_t in_use, peak;
unsigned long freed;
long plays;
bool plays_refused;
thread_local uint64_t queued_hash;
int opened; /* calls of kin_emulated_memory(true) that have not ended */
std::mutex lock;
constexpr size_t step = (size_t)1 << 20;

void protect(kin_gpu_range *r, bool open)
{
    if (r->committed)
        mprotect(r->base, r->committed, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

/* Runs the lane until it is empty or waits for an event that has not passed; false: did nothing. */
bool run(lane &l)
{
    bool any = false;
    while (!l.empty()) {
        if (l.front().event && l.front().event->passed < l.front().passed)
            break;
        const task now = std::move(l.front());
        l.pop_front();
        if (now.work)
            now.work();
        any = true;
    }
    return any;
}

/* Runs all that this thread can have queued. */
void run_all()
{
    std::vector<std::shared_ptr<lane>> all = {compute};
    {
        std::lock_guard<std::mutex> hold(lock);
        for (kin_gpu_range *r = ranges; r; r = r->next)
            if (r->lanes[KIN_GPU_COMPUTE] == compute)
                all.push_back(r->lanes[KIN_GPU_COPY]);
    }
    if (order == KIN_EMULATED_COPIES_EARLY)
        std::reverse(all.begin(), all.end());
    for (bool any = true; any;) {
        any = false;
        for (const std::shared_ptr<lane> &l : all)
            any = run(*l) || any;
    }
    for (const std::shared_ptr<lane> &l : all)
        if (!l->empty()) {
            fprintf(stderr, "emulated gpu: lanes wait for each other for ever\n");
            abort();
        }
}

lane &lane_of(const kin_gpu *g)
{
    return *g->range->lanes[g->stream];
}

/* The block of `of` that p lies in, or NULL. */
bool holds(const std::map<void *, size_t> &of, const void *p)
{
    std::lock_guard<std::mutex> hold(memory_lock);
    auto at = of.upper_bound(const_cast<void *>(p));
    return at != of.begin() && (--at, (const char *)p < (const char *)at->first + at->second);
}

bool on_device(const void *p)
{
    std::lock_guard<std::mutex> hold(lock);
    for (kin_gpu_range *r = ranges; r; r = r->next)
        if ((const char *)p >= r->base && (const char *)p < r->base + r->reserved)
            return true;
    return holds(allocated, p);
}

void *take(std::map<void *, size_t> &from, size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    std::lock_guard<std::mutex> hold(memory_lock);
    if (p)
        from[p] = bytes ? bytes : 1;
    return p;
}

void give(std::map<void *, size_t> &to, void *p)
{
    run_all();
    std::lock_guard<std::mutex> hold(memory_lock);
    if (&to == &allocated && p)
        in_use -= allocated[p];
    to.erase(p);
    free(p);
}

} // namespace

void kin_emulated_set_order(kin_emulated_order o)
{
    run_all();
    order = o;
}

void kin_emulated_finish(void)
{
    run_all();
}

size_t kin_emulated_peak(void)
{
    std::lock_guard<std::mutex> hold(memory_lock);
    const size_t most = peak;
    peak = in_use;
    return most;
}

uint64_t kin_emulated_bytes(uint64_t h, const void *bytes, size_t n)
{
    return kin_fnv1a(h, bytes, n);
}

uint64_t kin_emulated_addresses(uint64_t h, const void *bytes, size_t n)
{
    for (size_t at = 0; at + sizeof(void *) <= n; at += sizeof(void *)) {
        const void *p;
        memcpy(&p, (const char *)bytes + at, sizeof p);
        if (on_device(p))
            h = kin_emulated_bytes(h, &p, sizeof p);
    }
    return h;
}

long kin_emulated_plays(void)
{
    const long n = plays;
    plays = 0;
    return n;
}

void kin_emulated_refuse_plays(bool refuse)
{
    plays_refused = refuse;
}

uint64_t kin_emulated_log(void)
{
    const uint64_t h = queued_hash;
    queued_hash = 0;
    return h;
}

void kin_emulated_queue(kin_gpu *g, uint64_t what, std::function<void()> work)
{
    queued_hash = kin_emulated_bytes(queued_hash, &what, sizeof what);
    if (g->recording) {
        g->recording->work.push_back(std::move(work));
        return;
    }
    lane_of(g).push_back({std::move(work), nullptr, 0});
    if (lane_of(g).size() >= queued_most)
        run_all();
}

void kin_emulated_memory(bool open)
{
    std::lock_guard<std::mutex> hold(lock);
    if (open ? opened++ == 0 : --opened == 0)
        for (kin_gpu_range *r = ranges; r; r = r->next)
            protect(r, open);
}

static kin_status refused(kin_error *err)
{
    return kin_fail(err, KIN_ERR_UNSUPPORTED, "emulated gpu: not while recording");
}

int kin_gpu_count(char *why, size_t bytes)
{
    if (bytes)
        why[0] = 0;
    return 1;
}

bool kin_gpu_describe(int index, char *text, size_t bytes)
{
    snprintf(text, bytes, "emulated on the host, for tests");
    return index == 0;
}

kin_status kin_gpu_open(int index, size_t *range, char **base, kin_gpu **out, kin_error *err)
{
    *out = nullptr;
    if (index != 0)
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "cuda: device %d must be below the 1 here",
                        index);
    kin_gpu *g = new (std::nothrow) kin_gpu();
    kin_gpu_range *r = new (std::nothrow) kin_gpu_range();
    void *p = mmap(NULL, *range, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!g || !r || p == MAP_FAILED) {
        delete g;
        delete r;
        return kin_fail(err, KIN_ERR_MEM, "emulated gpu: no address space");
    }
    madvise(p, *range, MADV_DONTDUMP);
    r->base = (char *)p;
    r->reserved = *range;
    r->lanes[KIN_GPU_COMPUTE] = compute;
    r->lanes[KIN_GPU_COPY] = std::make_shared<lane>();
    g->range = r;
    g->capability = 90;
    std::lock_guard<std::mutex> hold(lock);
    r->next = ranges;
    ranges = r;
    *base = r->base;
    *out = g;
    return KIN_OK;
}

void kin_gpu_close(kin_gpu **pg)
{
    kin_gpu *g = *pg;
    if (!g)
        return;
    run_all();
    {
        std::lock_guard<std::mutex> hold(lock);
        kin_gpu_range **at = &ranges;
        while (*at != g->range)
            at = &(*at)->next;
        *at = g->range->next;
    }
    munmap(g->range->base, g->range->reserved);
    delete g->range;
    delete g;
    *pg = nullptr;
}

kin_status kin_gpu_commit(kin_gpu *g, size_t bytes, kin_error *err)
{
    kin_gpu_range *r = g->range;
    if (bytes <= r->committed)
        return KIN_OK;
    if (g->recording)
        return refused(err);
    std::lock_guard<std::mutex> hold(lock);
    const size_t end = (bytes + step - 1) / step * step;
    if (end > r->reserved)
        return kin_fail(err, KIN_ERR_MEM, "emulated gpu: workspace of %zu bytes", bytes);
    r->committed = end;
    protect(r, opened > 0);
    return KIN_OK;
}

void *kin_gpu_alloc(kin_gpu *g, size_t bytes)
{
    void *p = g->recording ? nullptr : take(allocated, bytes);
    std::lock_guard<std::mutex> hold(memory_lock);
    if (p)
        in_use += allocated[p];
    peak = std::max(peak, in_use);
    return p;
}

void kin_gpu_free(void *p)
{
    freed++;
    give(allocated, p);
}

size_t kin_gpu_free_bytes(const kin_gpu *)
{
    return (size_t)1 << 30;
}

void *kin_gpu_pinned(kin_gpu *, size_t bytes)
{
    return take(pinned, bytes);
}

void kin_gpu_unpin(void *p)
{
    give(pinned, p);
}

void kin_gpu_use(kin_gpu *g, kin_gpu_lane lane)
{
    g->stream = lane;
}

static void copy(void *dst, const void *src, size_t bytes)
{
    kin_emulated_memory(true);
    memcpy(dst, src, bytes);
    kin_emulated_memory(false);
}

/* Where p lies on the device, or a number that stands for the host. */
static uint64_t place(const void *p)
{
    return on_device(p) ? (uint64_t)(uintptr_t)p : 1;
}

/* True for memory that lasts until the copy is done. */
static bool lasts(const kin_gpu *g, const void *p)
{
    const kin_gpu_recording *r = g->recording;
    return on_device(p) || holds(pinned, p) ||
           (r && p >= r->kept.data() && p < r->kept.data() + r->kept.capacity());
}

kin_status kin_gpu_copy(kin_gpu *g, void *dst, const void *src, size_t bytes, kin_error *err)
{
    const uint64_t parts[] = {place(dst), place(src), bytes};
    const uint64_t what = kin_emulated_bytes(0, parts, sizeof parts);
    const bool arrives = lasts(g, dst);
    if (g->recording && !(arrives && lasts(g, src)))
        return refused(err);
    if (lasts(g, src)) {
        kin_emulated_queue(g, what, [=]() { copy(dst, src, bytes); });
    } else {
        const char *from = (const char *)src;
        const std::vector<char> taken(from, from + bytes);
        kin_emulated_queue(g, what, [=]() { copy(dst, taken.data(), bytes); });
    }
    if (!arrives)
        run_all();
    return KIN_OK;
}

kin_status kin_gpu_signal(kin_gpu *g, int event, kin_error *err)
{
    if (g->recording)
        return refused(err);
    kin_emulated_event *e = &g->events[event];
    const unsigned long count = ++e->asked;
    lane_of(g).push_back({[=]() { e->passed = std::max(e->passed, count); }, nullptr, 0});
    return KIN_OK;
}

kin_status kin_gpu_after(kin_gpu *g, int event, kin_error *err)
{
    if (g->recording)
        return refused(err);
    lane_of(g).push_back({nullptr, &g->events[event], g->events[event].asked});
    return KIN_OK;
}

kin_status kin_gpu_reach(kin_gpu *g, int event, kin_error *err)
{
    if (g->recording)
        return refused(err);
    if (g->events[event].passed < g->events[event].asked) {
        g->waits++;
        run_all();
    }
    return KIN_OK;
}

kin_status kin_gpu_wait(kin_gpu *g, kin_error *err)
{
    if (g->recording)
        return refused(err);
    g->waits++;
    run_all();
    return KIN_OK;
}

bool kin_gpu_record(kin_gpu *g, size_t bytes)
{
    g->recording = new kin_gpu_recording();
    g->recording->kept.reserve(bytes);
    return true;
}

bool kin_gpu_is_recording(const kin_gpu *g)
{
    return g->recording;
}

const void *kin_gpu_keep(kin_gpu *g, const void *host, size_t bytes)
{
    std::vector<char> &kept = g->recording->kept;
    const size_t at = kept.size(),
                 padded = (bytes + KIN_GPU_ALIGN - 1) / KIN_GPU_ALIGN * KIN_GPU_ALIGN;
    if (padded > kept.capacity() - at)
        return nullptr;
    kept.resize(at + padded);
    memcpy(kept.data() + at, host, bytes);
    return kept.data() + at;
}

kin_gpu_recording *kin_gpu_recorded(kin_gpu *g)
{
    kin_gpu_recording *r = g->recording;
    g->recording = nullptr;
    return r;
}

kin_status kin_gpu_play(kin_gpu *g, kin_gpu_recording *r, kin_error *err)
{
    if (plays_refused)
        return kin_fail(err, KIN_ERR_MEM, "emulated gpu: no memory for a graph");
    plays++;
    for (const std::function<void()> &work : r->work)
        kin_emulated_queue(g, 0, work);
    return KIN_OK;
}

void kin_gpu_forget(kin_gpu_recording *r)
{
    run_all();
    delete r;
}

unsigned long kin_gpu_frees(void)
{
    return freed;
}

kin_status kin_gpu_launched(kin_gpu *, const char *, kin_error *)
{
    return KIN_OK;
}

bool kin_gpu_facts_of(const kin_gpu *g, kin_gpu_facts *out)
{
    *out = {};
    out->capability = g->capability;
    out->used = g->range->committed;
    out->total = g->range->reserved;
    return true;
}

long kin_gpu_waits(const kin_gpu *g)
{
    return g->waits;
}
