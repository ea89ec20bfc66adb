/* tensor/cuda/emulate/emulate.cc: threads of a block as fibers. A thread that meets no barrier runs
 * to its end on the fiber of the one before it; one that waits keeps its fiber. Fibers start as
 * contexts and then change by setjmp, which makes no system call. */
#undef _FORTIFY_SOURCE /* its longjmp takes another stack for an error */
#include "tensor/cuda/emulate/emulate.h"

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

thread_local kin_emulated_thread *kin_emulated_now;

namespace
{

constexpr size_t stack_bytes = 256 << 10;
constexpr int lanes = 32;

struct gate { /* a barrier of `of` threads, less the finished ones */
    int of = 0, finished = 0, arrived = 0;
    unsigned long round = 0;
    bool full() const
    {
        return arrived > 0 && arrived >= of - finished;
    }
    void open()
    {
        arrived = 0;
        round++;
    }
};

struct fiber {
    ucontext_t first; /* how it starts */
    jmp_buf at;       /* where it goes on */
    char *stack;
    kin_emulated_thread self;
    bool started, idle; /* idle: has no thread */
};

constexpr size_t most_given = 32; /* bytes of a lane in kin_emulated_lanes */

struct late_copy { /* 16 bytes on their way into shared memory */
    void *to;
    const void *from;
    bool in;
    int group;
};

struct copies { /* of one thread */
    std::vector<late_copy> waiting;
    int group; /* that is being filled */
};

struct machine {
    std::vector<fiber *> fibers; /* kept between launches */
    jmp_buf host;
    const std::function<void()> *body;
    dim3 block_dim;
    unsigned next, total, done;
    size_t running;
    gate all, warp[1024 / lanes];
    double exchange[1024];
    char given[2][1024][most_given];
    copies late[1024];
};

thread_local machine m;

unsigned index_of(const kin_emulated_thread *t)
{
    return t->thread.x + t->block_dim.x * (t->thread.y + t->block_dim.y * t->thread.z);
}

void finish(unsigned i)
{
    if (!m.late[i].waiting.empty()) {
        fprintf(stderr, "emulated gpu: a thread ended before its copies had arrived\n");
        abort();
    }
    m.done++;
    gate *g[2] = {&m.all, &m.warp[i / lanes]};
    for (gate *x : g) {
        x->finished++;
        if (x->full())
            x->open();
    }
}

void to_host(fiber *f)
{
    if (_setjmp(f->at) == 0)
        _longjmp(m.host, 1);
}

/* Runs threads that have not started yet, one after another, then rests. */
void work(void)
{
    for (;;) {
        fiber *f = m.fibers[m.running];
        while (m.next < m.total) {
            unsigned i = m.next++;
            f->self.thread = dim3(i % m.block_dim.x, i / m.block_dim.x % m.block_dim.y,
                                  i / m.block_dim.x / m.block_dim.y);
            f->self.exchanges = 0;
            kin_emulated_now = &f->self;
            (*m.body)();
            finish(i);
        }
        f->idle = true;
        to_host(f);
    }
}

fiber *fiber_at(size_t i)
{
    while (m.fibers.size() <= i) {
        fiber *f = new fiber();
        f->stack = (char *)mmap(NULL, stack_bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (f->stack == MAP_FAILED) {
            fprintf(stderr, "emulated gpu: no memory for a thread's stack\n");
            abort();
        }
        getcontext(&f->first);
        f->first.uc_stack.ss_sp = f->stack;
        f->first.uc_stack.ss_size = stack_bytes;
        f->first.uc_link = NULL;
        makecontext(&f->first, work, 0);
        f->idle = true;
        m.fibers.push_back(f);
    }
    return m.fibers[i];
}

__attribute__((noinline)) void resume(size_t i)
{
    fiber *f = m.fibers[i];
    m.running = i;
    kin_emulated_now = &f->self;
    if (_setjmp(m.host) != 0)
        return;
    if (f->started)
        _longjmp(f->at, 1);
    f->started = true;
    setcontext(&f->first);
}

void wait(gate *g)
{
    fiber *f = m.fibers[m.running];
    const unsigned long round = g->round;
    g->arrived++;
    if (g->full())
        g->open();
    while (g->round == round)
        to_host(f);
    kin_emulated_now = &f->self;
}

void run_block(dim3 at, dim3 grid, dim3 block)
{
    m.block_dim = block;
    m.next = m.done = 0;
    m.total = block.x * block.y * block.z;
    m.all = gate();
    m.all.of = (int)m.total;
    for (unsigned w = 0; w * lanes < m.total; w++) {
        m.warp[w] = gate();
        m.warp[w].of = (int)(m.total - w * lanes < lanes ? m.total - w * lanes : lanes);
    }
    size_t used = 0;
    for (unsigned long idle_rounds = 0; m.done < m.total; idle_rounds++) {
        const unsigned before = m.done + m.next;
        const unsigned long round = m.all.round;
        while (m.next < m.total) {
            fiber *f = fiber_at(used);
            f->self = {dim3(), at, block, grid, 0};
            f->idle = false;
            resume(used++);
        }
        for (size_t i = 0; i < used; i++)
            if (!m.fibers[i]->idle)
                resume(i);
        if (before != m.done + m.next || round != m.all.round)
            idle_rounds = 0;
        if (idle_rounds > 100000) {
            fprintf(stderr, "emulated gpu: threads wait for each other for ever\n");
            abort();
        }
    }
}

} // namespace

void kin_emulated_run(dim3 grid, dim3 block, const std::function<void()> &body)
{
    if (block.x * block.y * block.z > 1024 || grid.y > 65535 || grid.z > 65535) {
        fprintf(stderr, "emulated gpu: a launch no device would take\n");
        abort();
    }
    kin_emulated_memory(true);
    m.body = &body;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++)
                run_block(dim3(x, y, z), grid, block);
    kin_emulated_memory(false);
}

void __syncthreads()
{
    wait(&m.all);
}

void __syncwarp()
{
    wait(&m.warp[index_of(kin_emulated_now) / lanes]);
}

double kin_emulated_xor(double v, int mask)
{
    const unsigned i = index_of(kin_emulated_now);
    m.exchange[i] = v;
    __syncwarp();
    const double got = m.exchange[i ^ (unsigned)mask];
    __syncwarp();
    return got;
}

float __shfl_xor_sync(unsigned, float v, int mask)
{
    return (float)kin_emulated_xor((double)v, mask);
}

double __shfl_xor_sync(unsigned, double v, int mask)
{
    return kin_emulated_xor(v, mask);
}

int __shfl_xor_sync(unsigned, int v, int mask)
{
    return (int)kin_emulated_xor(v, mask);
}

const void *kin_emulated_lanes(const void *mine, size_t bytes)
{
    const unsigned i = index_of(kin_emulated_now);
    char(*given)[most_given] = m.given[kin_emulated_now->exchanges++ % 2];
    memcpy(given[i], mine, bytes);
    /* note: what was given before this one has been read by all who arrive here */
    __syncwarp();
    return given[i / lanes * lanes];
}

static void check_aligned(const void *p, const char *what)
{
    if ((uintptr_t)p % 16 == 0)
        return;
    fprintf(stderr, "emulated gpu: %s at an address that is no multiple of 16\n", what);
    abort();
}

void kin_ldmatrix_emulated(uint32_t r[4], const uint16_t *row, bool turned)
{
    const int lane = (int)(index_of(kin_emulated_now) % lanes), g = lane / 4, t = lane % 4 * 2;
    check_aligned(row, "ldmatrix");
    const char *all = (const char *)kin_emulated_lanes(&row, sizeof row);
    for (int k = 0; k < 4; k++) {
        const uint16_t *at[8];
        for (int i = 0; i < 8; i++)
            memcpy(&at[i], all + (size_t)(8 * k + i) * most_given, sizeof at[i]);
        const uint16_t low = turned ? at[t][g] : at[g][t];
        const uint16_t high = turned ? at[t + 1][g] : at[g][t + 1];
        r[k] = low | (uint32_t)high << 16;
    }
}

static float half_of(uint32_t pair, int high)
{
    const uint32_t bits = high ? pair & 0xffff0000u : pair << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

void kin_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    const int lane = (int)(index_of(kin_emulated_now) % lanes);
    const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const char *all = (const char *)kin_emulated_lanes(mine, sizeof mine);
    for (int e = 0; e < 4; e++) {
        const int i = lane / 4 + e / 2 * 8, j = lane % 4 * 2 + e % 2;
        for (int l = 0; l < 16; l++) {
            uint32_t x[6], y[6];
            memcpy(x, all + (size_t)(i % 8 * 4 + l % 8 / 2) * most_given, sizeof x);
            memcpy(y, all + (size_t)(j * 4 + l % 8 / 2) * most_given, sizeof y);
            c[e] += half_of(x[i / 8 + l / 8 * 2], l % 2) * half_of(y[4 + l / 8], l % 2);
        }
    }
}

void kin_copy16(uint16_t *to, const void *from, bool in)
{
    copies *c = &m.late[index_of(kin_emulated_now)];
    check_aligned(to, "cp.async");
    if (in)
        check_aligned(from, "cp.async");
    c->waiting.push_back({to, from, in, c->group});
}

void kin_copy_commit()
{
    m.late[index_of(kin_emulated_now)].group++;
}

void kin_copy_wait_emulated(int left)
{
    copies *c = &m.late[index_of(kin_emulated_now)];
    size_t done = 0;
    for (; done < c->waiting.size() && c->waiting[done].group < c->group - left; done++) {
        const late_copy &one = c->waiting[done];
        if (one.in)
            memcpy(one.to, one.from, 16);
        else
            memset(one.to, 0, 16);
    }
    c->waiting.erase(c->waiting.begin(), c->waiting.begin() + (long)done);
}
