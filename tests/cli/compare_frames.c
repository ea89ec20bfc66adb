/* tests/cli/compare_frames.c: compare_frames CASE.safetensors PATTERN: the pictures PATTERN %
 * 0..F-1 against out.frames f32 [1,F,H,W,3] in [0,1] of a reference case. Exit 0 if every value is
 * the rounded one, but for at most one in a thousand that lies on the edge between two. */
#include <math.h>
#include <stdio.h>

#include "base/path.h"
#include "io/png.h"
#include "io/safetensors.h"
#include "io/video.h"

static kin_status compare(const char *path, const char *pattern, kin_error *err)
{
    kin_safetensors *file = NULL;
    int64_t off = 0, total = 0;
    kin_tensor t;

    KIN_TRY(kin_safetensors_open(path, &file, err));
    KIN_TRY(kin_safetensors_get(file, "out.frames", &t, err));
    for (int64_t f = 0; f < t.size[1]; f++) {
        const int64_t n = t.size[2] * t.size[3] * 3;
        char name[KIN_PATH_MAX];
        kin_image image = {0};

        KIN_TRY(kin_output_name(name, pattern, f, err));
        KIN_TRY(kin_png_read(name, &image, err));
        if (image.height != t.size[2] || image.width != t.size[3])
            return kin_fail(err, KIN_ERR_SHAPE, "%s has another size", name);
        for (int64_t i = 0; i < n; i++) {
            const double want = kin_tensor_get(&t, f * n + i) * 255.0;

            if (fabs((double)image.rgb[i] - want) > 0.51)
                return kin_fail(err, KIN_ERR_NUMERIC, "%s: value %lld is %d, not %.3f", name,
                                (long long)i, image.rgb[i], want);
            off += fabs((double)image.rgb[i] - want) > 0.5;
        }
        total += n;
        kin_image_free(&image);
    }
    kin_safetensors_close(&file);
    printf("%lld values, %lld on an edge\n", (long long)total, (long long)off);
    return off * 1000 <= total ? KIN_OK : kin_fail(err, KIN_ERR_NUMERIC, "too many on an edge");
}

int main(int argc, char **argv)
{
    kin_error err = {0};

    if (argc != 3 || compare(argv[1], argv[2], &err) != KIN_OK) {
        fprintf(stderr, "compare_frames: %s\n", argc == 3 ? err.text : "two arguments");
        return 1;
    }
    return 0;
}
