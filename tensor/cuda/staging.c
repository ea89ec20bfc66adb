#include "tensor/cuda/staging.h"

#include <stdlib.h>
#include <string.h>

void kin_staging_open(kin_staging *s, kin_gpu *gpu, int event)
{
    const char *pinned = getenv("KINEMA_CUDA_PINNED");
    *s = (kin_staging){.gpu = gpu, .event = event};
    if (pinned && strcmp(pinned, "0") == 0)
        return;
    s->half[0] = kin_gpu_pinned(gpu, 2 * (size_t)KIN_STAGING_HALF);
    if (s->half[0])
        s->half[1] = s->half[0] + KIN_STAGING_HALF;
}

void kin_staging_close(kin_staging *s)
{
    if (s->half[0])
        kin_gpu_unpin(s->half[0]);
    *s = (kin_staging){0};
}

/* The other half, once its bytes have left. */
static kin_status turn(kin_staging *s, kin_error *err)
{
    KIN_TRY(kin_gpu_signal(s->gpu, s->event + s->now, err));
    s->now = !s->now;
    s->at = 0;
    return kin_gpu_reach(s->gpu, s->event + s->now, err);
}

kin_status kin_staging_upload(kin_staging *s, void *dst, const void *src, size_t bytes,
                              kin_error *err)
{
    char *to = dst;
    const char *from = src;
    if (kin_gpu_is_recording(s->gpu)) {
        from = kin_gpu_keep(s->gpu, src, bytes);
        return from ? kin_gpu_copy(s->gpu, dst, from, bytes, err)
                    : kin_fail(err, KIN_ERR_MEM, "cuda: no room in the recording");
    }
    if (!s->half[0])
        return kin_gpu_copy(s->gpu, dst, src, bytes, err);
    while (bytes > 0) {
        const size_t room = KIN_STAGING_HALF - s->at, n = bytes < room ? bytes : room;
        /* note: what fits into one half stays in one piece */
        if (room == 0 || (n < bytes && bytes <= KIN_STAGING_HALF)) {
            KIN_TRY(turn(s, err));
            continue;
        }
        char *via = s->half[s->now] + s->at;
        memcpy(via, from, n);
        KIN_TRY(kin_gpu_copy(s->gpu, to, via, n, err));
        s->at += n + 63 < room ? (n + 63) & ~(size_t)63 : room;
        to += n;
        from += n;
        bytes -= n;
    }
    return KIN_OK;
}

kin_status kin_staging_read(kin_staging *s, void *dst, const void *src, size_t bytes,
                            kin_error *err)
{
    char *to = dst;
    const char *from = src;
    size_t asked = 0;
    if (kin_gpu_is_recording(s->gpu))
        return kin_fail(err, KIN_ERR_UNSUPPORTED, "cuda: nothing is read while recording");
    if (bytes == 0) /* note: uploads may still be on their way */
        return KIN_OK;
    if (!s->half[0]) {
        KIN_TRY(kin_gpu_copy(s->gpu, dst, src, bytes, err));
        return kin_gpu_wait(s->gpu, err);
    }
    /* note: uploads queued before leave the halves first; none is on its way afterwards */
    for (size_t got = 0, piece = 0; got < bytes; piece++) {
        for (; asked < bytes && asked <= piece * KIN_STAGING_HALF + KIN_STAGING_HALF;
             asked += KIN_STAGING_HALF) {
            const int half = (int)(asked / KIN_STAGING_HALF % 2);
            const size_t n = bytes - asked < KIN_STAGING_HALF ? bytes - asked : KIN_STAGING_HALF;
            KIN_TRY(kin_gpu_copy(s->gpu, s->half[half], from + asked, n, err));
            KIN_TRY(kin_gpu_signal(s->gpu, s->event + half, err));
        }
        const size_t n = bytes - got < KIN_STAGING_HALF ? bytes - got : KIN_STAGING_HALF;
        KIN_TRY(kin_gpu_reach(s->gpu, s->event + (int)(piece % 2), err));
        memcpy(to + got, s->half[piece % 2], n);
        got += n;
    }
    s->now = 0;
    s->at = 0;
    return KIN_OK;
}
