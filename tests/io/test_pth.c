/* tests/io/test_pth.c: files of torch.save: what our writer writes our reader reads; damage in the
 * numbers is found; the two containers of one checkpoint agree. */
#include "io/pth.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/alloc.h"
#include "base/json.h"
#include "base/text.h"
#include "io/pth_write.h"
#include "io/safetensors.h"
#include "tests/support/folder.h"
#include "tests/support/support.h"

static float w[6] = {1, 2, 3, -4, 5.5f, 6}, s = 2.5f;
static int64_t ids[3] = {7, -8, INT64_MAX};

/* {"step": 4, "m": {"w": w, "none": [0,3], "s": scalar}, "again": w, "opt": [{"lr": .., "ok": ..}],
 * "ids": ..., 3: w as bf16} */
static void write_file(const char *name)
{
    kin_error err = {0};
    kin_pth_out *o;
    const kin_tensor tw = KIN_TENSOR(w, KIN_DTYPE_F32, 2, 3),
                     none = KIN_TENSOR(w, KIN_DTYPE_F32, 0, 3),
                     scalar = kin_tensor_of(&s, KIN_DTYPE_F32, 0, NULL),
                     ti = KIN_TENSOR(ids, KIN_DTYPE_I64, 3);
    kin_item item = kin_item_of("w", &tw, KIN_DTYPE_F32);
    assert_ok(kin_pth_out_create(&o, &err), &err);
    kin_pth_out_dict(o);
    kin_pth_out_key(o, "step");
    kin_pth_out_int(o, 4);
    kin_pth_out_key(o, "m");
    kin_pth_out_dict(o);
    kin_pth_out_key(o, "w");
    const int64_t first = kin_pth_out_tensor(o, &item);
    item = kin_item_of("none", &none, KIN_DTYPE_F32);
    kin_pth_out_key(o, "none");
    kin_pth_out_tensor(o, &item);
    item = kin_item_of("s", &scalar, KIN_DTYPE_F32);
    kin_pth_out_key(o, "s");
    kin_pth_out_tensor(o, &item);
    kin_pth_out_end(o);
    kin_pth_out_key(o, "again");
    kin_pth_out_again(o, first);
    kin_pth_out_key(o, "opt");
    kin_pth_out_list(o);
    kin_pth_out_dict(o);
    kin_pth_out_key(o, "lr");
    kin_pth_out_float(o, 1e-4);
    kin_pth_out_key(o, "ok");
    kin_pth_out_bool(o, true);
    kin_pth_out_key(o, "large");
    kin_pth_out_int(o, INT64_C(-1234567890123));
    kin_pth_out_key(o, "nothing");
    kin_pth_out_none(o);
    kin_pth_out_end(o);
    kin_pth_out_end(o);
    kin_pth_out_key(o, "ids");
    item = kin_item_of("ids", &ti, KIN_DTYPE_I64);
    kin_pth_out_tensor(o, &item);
    kin_pth_out_key_int(o, 3);
    item = kin_item_of("w", &tw, KIN_DTYPE_BF16);
    kin_pth_out_tensor(o, &item);
    kin_pth_out_end(o);
    assert_ok(kin_pth_out_commit(o, kin_test_path(name), &err), &err);
    kin_pth_out_close(&o);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_pth *p;
    kin_tensor t, u;
    double v;
    write_file("a.pth");
    assert_ok(kin_pth_open(kin_test_path("a.pth"), &p, &err), &err);
    assert_ok(kin_pth_verify(p, &err), &err);
    assert_false(kin_pth_is_legacy(p));
    static const char *const order[] = {"m.w", "m.none", "m.s", "again", "ids", "3"};
    assert_int_equal(kin_pth_count(p), 6);
    for (int i = 0; i < 6; i++) {
        assert_string_equal(kin_pth_at(p, i)->name, order[i]);
        assert_int_equal(kin_pth_find(p, order[i]), i);
        /* data lie on multiples of 64 bytes, so that nothing is copied */
        assert_true((uintptr_t)kin_pth_at(p, i)->data % 64 == 0 || i == 1);
    }
    assert_ok(kin_pth_tensor(p, 0, &t, &err), &err);
    assert_memory_equal(t.data, w, sizeof w);
    assert_ok(kin_pth_tensor(p, 3, &u, &err), &err);
    assert_ptr_equal(t.data, u.data);
    assert_ok(kin_pth_tensor(p, 4, &t, &err), &err);
    assert_memory_equal(t.data, ids, sizeof ids);
    assert_ok(kin_pth_tensor(p, 5, &t, &err), &err);
    assert_int_equal(t.dtype, KIN_DTYPE_BF16);
    for (int i = 0; i < 6; i++)
        assert_true(kin_tensor_get(&t, i) == (double)w[i]);
    assert_true(kin_pth_number(p, "step", &v) && v == 4);
    assert_true(kin_pth_number(p, "opt.0.lr", &v) && v == 1e-4);
    assert_true(kin_pth_number(p, "opt.0.ok", &v) && v == 1);
    assert_true(kin_pth_number(p, "opt.0.large", &v) && v == -1234567890123.0);
    assert_true(kin_pth_number(p, "m.s", &v) && v == 2.5);
    assert_false(kin_pth_number(p, "m.w", &v));
    assert_false(kin_pth_number(p, "opt.0.nothing", &v));
    assert_int_equal(kin_pth_find(p, "m"), -1);
    kin_pth_close(&p);
}

/* One byte of a number: opens (numbers are not touched then), but is found by the checksum. */
static void damage_is_found(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_pth *p;
    char *data;
    size_t n, at = 0;
    write_file("b.pth");
    assert_ok(kin_file_read(kin_test_path("b.pth"), 1 << 20, &data, &n, &err), &err);
    while (at + sizeof w <= n && memcmp(data + at, w, sizeof w) != 0)
        at++;
    assert_true(at + sizeof w <= n);
    data[at] ^= 1;
    assert_ok(kin_file_write(kin_test_path("b.pth"), data, n, &err), &err);
    kin_free(data);
    assert_ok(kin_pth_open(kin_test_path("b.pth"), &p, &err), &err);
    assert_int_equal(kin_pth_verify(p, &err), KIN_ERR_FORMAT);
    kin_pth_close(&p);
}

static void a_failed_write_leaves_nothing(void **state)
{
    (void)state;
    kin_error err = {0};
    kin_pth_out *o;
    const kin_tensor ti = KIN_TENSOR(ids, KIN_DTYPE_I64, 3);
    const kin_item item = kin_item_of("ids", &ti, KIN_DTYPE_BF16);
    assert_ok(kin_pth_out_create(&o, &err), &err);
    kin_pth_out_dict(o);
    kin_pth_out_end(o);
    assert_int_equal(kin_pth_out_commit(o, kin_test_path("no/c.pth"), &err), KIN_ERR_IO);
    kin_pth_out_close(&o);
    assert_ok(kin_pth_out_create(&o, &err), &err);
    kin_pth_out_tensor(o, &item);
    assert_int_equal(kin_pth_out_commit(o, kin_test_path("c.pth"), &err), KIN_ERR_ARG);
    assert_false(kin_path_exists(kin_test_path("c.pth")));
    kin_pth_out_close(&o);
}

static void out_of_memory(void **state)
{
    (void)state;
    kin_error err = {0};
    write_file("d.pth");
    for (uint64_t k = 1; k < 1000; k++) {
        kin_pth *p;
        kin_alloc_fail_at(k);
        const kin_status status = kin_pth_open(kin_test_path("d.pth"), &p, &err);
        kin_alloc_fail_at(0);
        if (status == KIN_OK) {
            kin_pth_close(&p);
            assert_true(k > 10);
            return;
        }
        assert_int_equal(status, KIN_ERR_MEM);
        assert_null(p);
    }
    fail();
}

/* The stream has its numbers at any place of the file: other alignment, same values. */
static void both_containers_agree(void **state)
{
    (void)state;
    const char *golden = getenv("KINEMA_GOLDEN");
    char a[KIN_PATH_MAX], b[KIN_PATH_MAX];
    kin_error err = {0};
    kin_pth *p, *q;
    if (!golden || !*golden)
        skip();
    assert_ok(kin_path_join(a, golden, "image/ckpt_step_4.pth", &err), &err);
    assert_ok(kin_path_join(b, golden, "image/ckpt_step_4_legacy.pth", &err), &err);
    assert_ok(kin_pth_open(a, &p, &err), &err);
    assert_ok(kin_pth_open(b, &q, &err), &err);
    assert_true(kin_pth_is_legacy(q));
    assert_int_equal(kin_pth_count(p), kin_pth_count(q));
    for (int64_t i = 0; i < kin_pth_count(p); i++) {
        kin_tensor x, y;
        assert_string_equal(kin_pth_at(p, i)->name, kin_pth_at(q, i)->name);
        assert_ok(kin_pth_tensor(p, i, &x, &err), &err);
        assert_ok(kin_pth_tensor(q, i, &y, &err), &err);
        assert_true(kin_tensor_same_shape(&x, &y));
        assert_memory_equal(x.data, y.data, (size_t)kin_tensor_numel(&x) * kin_dtype_size(x.dtype));
    }
    kin_pth_close(&p);
    kin_pth_close(&q);
}

/* A dictionary that holds itself, and one that is nested too deep, end with an error. */
static void endless_trees_are_refused(void **state)
{
    (void)state;
    static const char itself[] = "\x80\x02}q\x00X\x01\x00\x00\x00"
                                 "ah\x00s.";
    kin_pickle k;
    kin_error err = {0};
    assert_ok(kin_pickle_parse((const uint8_t *)itself, sizeof itself - 1, &k, &err), &err);
    assert_int_equal(k.value[k.root].kind, KIN_PICKLE_DICT);
    assert_int_equal(k.value[k.root].item[1], k.root);
    kin_pickle_free(&k);
    kin_pth_out *o;
    kin_pth *p;
    assert_ok(kin_pth_out_create(&o, &err), &err);
    for (int i = 0; i < 100; i++) /* more than may be open at once */
        kin_pth_out_list(o);
    assert_int_equal(kin_pth_out_commit(o, kin_test_path("e.pth"), &err), KIN_ERR_MEM);
    kin_pth_out_close(&o);
    /* the stream around the pickle above: magic number, version, system, object, no storages */
    static const char start[] = "\x80\x02\x8A\x0A\x6C\xFC\x9C\x46\xF9\x20\x6A\xA8\x50\x19."
                                "\x80\x02M\xE9\x03."
                                "\x80\x02}X\x0D\x00\x00\x00little_endian\x88s.";
    static const char end[] = "\x80\x02].";
    char data[256];
    size_t n = 0;
    memcpy(data, start, sizeof start - 1);
    n += sizeof start - 1;
    memcpy(data + n, itself, sizeof itself - 1);
    n += sizeof itself - 1;
    memcpy(data + n, end, sizeof end - 1);
    n += sizeof end - 1;
    assert_ok(kin_file_write(kin_test_path("f.pth"), data, n, &err), &err);
    assert_int_equal(kin_pth_open(kin_test_path("f.pth"), &p, &err), KIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "f.pth"));
    assert_non_null(strstr(err.text, "nested deeper"));
}

/* A long list, and a call that copies it, over and over: few bytes that ask for much memory. */
static void copied_lists_are_bounded(void **state)
{
    enum { PAIRS = 5000, CALLS = 2000 };
    static const char pair[] = "K\001K\001\206", call[] = "h\001h\000\205R0";
    kin_strbuf b = {0};
    kin_error err = {0};
    kin_pickle p;
    (void)state;
    kin_strbuf_add_bytes(&b, "\200\002]q\000(", 6);
    for (int i = 0; i < PAIRS; i++)
        kin_strbuf_add_bytes(&b, pair, sizeof pair - 1);
    kin_strbuf_add(&b, "e0ccollections\nOrderedDict\nq\0010");
    for (int i = 0; i < CALLS; i++)
        kin_strbuf_add_bytes(&b, call, sizeof call - 1);
    kin_strbuf_add(&b, "N.");
    assert_int_equal(kin_pickle_parse((const uint8_t *)b.data, b.len, &p, &err), KIN_ERR_FORMAT);
    assert_non_null(strstr(err.text, "too many members"));
    kin_pickle_free(&p);
    kin_strbuf_free(&b);
}

/* The stream has no checksums: every changed byte of its pickles reaches the machine. */
static void changed_streams_never_crash(void **state)
{
    enum { PICKLES = 37000 }; /* bytes of the file that are not numbers */
    (void)state;
    const char *golden = getenv("KINEMA_GOLDEN"), *seed_text = getenv("KIN_SEED");
    char path[KIN_PATH_MAX], *data;
    kin_error err = {0};
    size_t n;
    uint64_t seed = seed_text ? strtoull(seed_text, NULL, 10) : 1;
    const int runs = seed_text ? 5000 : 300;
    int taken = 0;
    if (!golden || !*golden)
        skip();
    assert_ok(kin_path_join(path, golden, "image/ckpt_step_4_legacy.pth", &err), &err);
    assert_ok(kin_file_read(path, 1 << 22, &data, &n, &err), &err);
    assert_ok(kin_file_write(kin_test_path("x.pth"), data, n, &err), &err);
    FILE *fp = fopen(kin_test_path("x.pth"), "r+b");
    assert_non_null(fp);
    print_message("KIN_SEED=%llu\n", (unsigned long long)seed);
    for (int k = 0; k < runs; k++) {
        kin_pth *p;
        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        const long at = (long)((seed >> 33) % PICKLES);
        const char with = k % 3 ? (char)(data[at] ^ (1 << (seed >> 61))) : (char)(seed >> 25);
        fseek(fp, at, SEEK_SET);
        fputc(with, fp);
        fflush(fp);
        const kin_status status = kin_pth_open(kin_test_path("x.pth"), &p, &err);
        taken += status == KIN_OK;
        if (status == KIN_OK)
            kin_pth_close(&p);
        else
            assert_true(status == KIN_ERR_FORMAT || status == KIN_ERR_UNSUPPORTED);
        fseek(fp, at, SEEK_SET);
        fputc(data[at], fp);
        fflush(fp);
    }
    fclose(fp);
    kin_free(data);
    print_message("%d of %d were taken\n", taken, runs);
    assert_true(taken < runs);
}

static void read_ramp(const void *user, int64_t at, int64_t n, kin_dtype as, void *out)
{
    float *f = out;
    (void)user;
    assert_int_equal(as, KIN_DTYPE_F32);
    for (int64_t i = 0; i < n; i++)
        f[i] = (float)((at + i) % 1000);
}

/* Bytes resident at most so far. */
static long peak_kb(void)
{
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    return use.ru_maxrss;
}

/* 64 MB written, read and written again as bf16: in pieces, so that the process grows by little. */
static void large_files_pass_in_pieces(void **state)
{
    enum { ROWS = 4, COLUMNS = 4 << 20 };
    (void)state;
    kin_error err = {0};
    kin_pth_out *o;
    kin_pth *p;
    char name[16];
    const long before = peak_kb();
    kin_item item = {.name = name,
                     .ndim = 1,
                     .size = {COLUMNS},
                     .type = KIN_DTYPE_F32,
                     .store = KIN_DTYPE_F32,
                     .read = read_ramp};
    assert_ok(kin_pth_out_create(&o, &err), &err);
    kin_pth_out_dict(o);
    for (int i = 0; i < ROWS; i++) {
        snprintf(name, sizeof name, "%d", i);
        kin_pth_out_key(o, name);
        kin_pth_out_tensor(o, &item);
    }
    kin_pth_out_end(o);
    assert_ok(kin_pth_out_commit(o, kin_test_path("big.pth"), &err), &err);
    kin_pth_out_close(&o);
    assert_ok(kin_pth_open(kin_test_path("big.pth"), &p, &err), &err);
    item = kin_pth_item(p, 2, "2", KIN_DTYPE_BF16);
    assert_ok(kin_safetensors_write_items(kin_test_path("big.st"), &item, 1, NULL, &err), &err);
    item = kin_pth_item(p, 1, "1", KIN_DTYPE_F32);
    assert_ok(kin_safetensors_write_items(kin_test_path("big.st2"), &item, 1, NULL, &err), &err);
    float last;
    kin_pth_read(kin_pth_at(p, 1), COLUMNS - 1, 1, KIN_DTYPE_F32, &last);
    assert_true(last == (float)((COLUMNS - 1) % 1000));
    kin_pth_close(&p);
    const long grown = peak_kb() - before;
    print_message("grew by %ld KB\n", grown);
#if !defined(KIN_SANITIZED)
    assert_true(grown < 8000);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(damage_is_found),
        cmocka_unit_test(a_failed_write_leaves_nothing),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(both_containers_agree),
        cmocka_unit_test(endless_trees_are_refused),
        cmocka_unit_test(copied_lists_are_bounded),
        cmocka_unit_test(changed_streams_never_crash),
        cmocka_unit_test(large_files_pass_in_pieces),
    };
    return cmocka_run_group_tests(tests, kin_test_folder_make, kin_test_folder_remove);
}
