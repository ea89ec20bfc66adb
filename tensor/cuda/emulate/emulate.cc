/* tensor/cuda/emulate/emulate.cc: threads of a block as fibers. A thread that meets no barrier runs
 * to its end on the fiber of the one before it; one that waits keeps its fiber. */
#include "tensor/cuda/emulate/emulate.h"

#include <cstdio>
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
    ucontext_t at;
    char *stack;
    kin_emulated_thread self;
    bool idle; /* has no thread */
};

struct machine {
    std::vector<fiber *> fibers; /* kept between launches */
    ucontext_t host;
    const std::function<void()> *body;
    dim3 block_dim;
    unsigned next, total, done;
    size_t running;
    gate all, warp[1024 / lanes];
    double exchange[1024];
};

thread_local machine m;

unsigned index_of(const kin_emulated_thread *t)
{
    return t->thread.x + t->block_dim.x * (t->thread.y + t->block_dim.y * t->thread.z);
}

void finish(unsigned i)
{
    m.done++;
    gate *g[2] = {&m.all, &m.warp[i / lanes]};
    for (gate *x : g) {
        x->finished++;
        if (x->full())
            x->open();
    }
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
            kin_emulated_now = &f->self;
            (*m.body)();
            finish(i);
        }
        f->idle = true;
        swapcontext(&f->at, &m.host);
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
        getcontext(&f->at);
        f->at.uc_stack.ss_sp = f->stack;
        f->at.uc_stack.ss_size = stack_bytes;
        f->at.uc_link = NULL;
        makecontext(&f->at, work, 0);
        f->idle = true;
        m.fibers.push_back(f);
    }
    return m.fibers[i];
}

void resume(size_t i)
{
    fiber *f = m.fibers[i];
    m.running = i;
    kin_emulated_now = &f->self;
    swapcontext(&m.host, &f->at);
}

void wait(gate *g)
{
    fiber *f = m.fibers[m.running];
    const unsigned long round = g->round;
    g->arrived++;
    if (g->full())
        g->open();
    while (g->round == round)
        swapcontext(&f->at, &m.host);
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
            f->self = {dim3(), at, block, grid};
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
