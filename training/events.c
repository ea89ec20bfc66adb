#include "training/events.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/path.h"

enum { RECORD_MAX = 1 << 20, FRAME = 12 }; /* bytes before the data of a record; 4 follow it */

/* ---- TFRecord ---- */

uint32_t kin_events_crc(const void *data, size_t n)
{
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < n; i++) {
        crc ^= ((const uint8_t *)data)[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

static void put_le(uint8_t *to, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t get_le(const uint8_t *from, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)from[i] << 8 * i;
    return v;
}

static kin_status write_record(kin_events *e, const void *data, size_t n, kin_error *err)
{
    uint8_t head[FRAME], tail[4];
    put_le(head, n, 8);
    put_le(head + 8, kin_events_crc(head, 8), 4);
    put_le(tail, kin_events_crc(data, n), 4);
    if (fwrite(head, 1, sizeof head, e->fp) != sizeof head || fwrite(data, 1, n, e->fp) != n ||
        fwrite(tail, 1, sizeof tail, e->fp) != sizeof tail || fflush(e->fp) != 0)
        return kin_fail(err, KIN_ERR_IO, "%s: %s", e->path, strerror(errno));
    return KIN_OK;
}

/* ---- protobuf ---- */

static void put_varint(kin_strbuf *b, uint64_t v)
{
    do {
        const char byte = (char)((v & 127) | (v > 127 ? 128 : 0));
        kin_strbuf_add_bytes(b, &byte, 1);
        v >>= 7;
    } while (v);
}

/* field number and wire type: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes */
static void put_key(kin_strbuf *b, int field, int type)
{
    put_varint(b, (uint64_t)(field << 3 | type));
}

static void put_bytes(kin_strbuf *b, int field, const char *data, size_t n)
{
    put_key(b, field, 2);
    put_varint(b, n);
    kin_strbuf_add_bytes(b, data, n);
}

static void put_fixed(kin_strbuf *b, int field, uint64_t bits, int bytes)
{
    uint8_t raw[8];
    put_key(b, field, bytes == 8 ? 1 : 5);
    put_le(raw, bits, bytes);
    kin_strbuf_add_bytes(b, (const char *)raw, (size_t)bytes);
}

static void clear(kin_strbuf *b)
{
    b->len = 0;
}

static bool take_varint(const uint8_t **at, const uint8_t *end, uint64_t *v)
{
    *v = 0;
    for (int shift = 0; *at < end && shift < 64; shift += 7) {
        const uint8_t byte = *(*at)++;
        *v |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return true;
    }
    return false;
}

/* The step of an Event that was written here; -1: none. */
static int64_t step_of(const uint8_t *at, size_t n)
{
    const uint8_t *end = at + n;
    uint64_t key, v;
    while (at < end && take_varint(&at, end, &key)) {
        const int type = key & 7;
        if (type == 1 && end - at >= 8)
            at += 8;
        else if (type == 0 && take_varint(&at, end, &v) && key >> 3 == 2)
            return (int64_t)v;
        else if (type != 0)
            break;
    }
    return -1;
}

/* ---- events ---- */

void kin_events_begin(kin_events *e, int64_t step)
{
    struct timespec now;
    uint64_t bits;
    clock_gettime(CLOCK_REALTIME, &now);
    const double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    memcpy(&bits, &seconds, sizeof bits);
    clear(&e->event);
    clear(&e->summary);
    put_fixed(&e->event, 1, bits, 8);
    put_key(&e->event, 2, 0);
    put_varint(&e->event, (uint64_t)step);
}

void kin_events_number(kin_events *e, const char *tag, double value)
{
    const float v = (float)value;
    uint32_t bits;
    if (!isfinite(v))
        return;
    memcpy(&bits, &v, sizeof bits);
    clear(&e->value);
    put_bytes(&e->value, 1, tag, strlen(tag));
    put_fixed(&e->value, 2, bits, 4);
    put_bytes(&e->summary, 1, e->value.data ? e->value.data : "", e->value.len);
}

static kin_status finish(kin_events *e, kin_error *err)
{
    if (e->event.failed || e->summary.failed || e->value.failed)
        return kin_fail(err, KIN_ERR_MEM, "log: out of memory");
    return write_record(e, e->event.data, e->event.len, err);
}

kin_status kin_events_end(kin_events *e, kin_error *err)
{
    put_bytes(&e->event, 5, e->summary.data ? e->summary.data : "", e->summary.len);
    return finish(e, err);
}

/* ---- the file ---- */

/* Length of the leading part whose records are whole and belong to steps up to `step`. */
static long valid_length(FILE *fp, int64_t step)
{
    uint8_t head[FRAME];
    uint8_t *data = kin_malloc(RECORD_MAX + 4);
    long length = 0;
    while (data && fread(head, 1, sizeof head, fp) == sizeof head) {
        const uint64_t n = get_le(head, 8);
        if (kin_events_crc(head, 8) != get_le(head + 8, 4) || n > RECORD_MAX ||
            fread(data, 1, (size_t)n + 4, fp) != n + 4 ||
            kin_events_crc(data, (size_t)n) != get_le(data + n, 4) ||
            step_of(data, (size_t)n) > step)
            break;
        length += (long)(FRAME + n + 4);
    }
    kin_free(data);
    return length;
}

kin_status kin_events_open(const char *run, int64_t step, kin_events *e, kin_error *err)
{
    static const char version[] = "brain.Event:2";
    char path[KIN_PATH_MAX];
    long length = 0;
    *e = (kin_events){0};
    KIN_TRY(kin_path_join(path, run, "events.out.tfevents.kinema", err));
    e->path = kin_strdup(path);
    if (!e->path)
        return kin_fail(err, KIN_ERR_MEM, "log: out of memory");
    FILE *fp = fopen(path, "rb");
    if (fp) {
        length = valid_length(fp, step);
        fclose(fp);
        if (truncate(path, length) != 0)
            return kin_fail(err, KIN_ERR_IO, "%s: %s", path, strerror(errno));
    }
    e->fp = fopen(path, "ab");
    if (!e->fp)
        return kin_fail(err, KIN_ERR_IO, "%s: %s", path, strerror(errno));
    if (length)
        return KIN_OK;
    kin_events_begin(e, 0);
    put_bytes(&e->event, 3, version, sizeof version - 1);
    return finish(e, err);
}

void kin_events_close(kin_events *e)
{
    if (e->fp)
        fclose(e->fp);
    kin_strbuf_free(&e->event);
    kin_strbuf_free(&e->summary);
    kin_strbuf_free(&e->value);
    kin_free(e->path);
    *e = (kin_events){0};
}
