/* A clip from a prompt:
 *   cc generate.c $(pkg-config --cflags --libs kinema) -o generate
 *   ./generate $(pkg-config --variable=bundled_model kinema) "a red ball falls" ball.mp4 */
#include <kinema/kinema.h>
#include <stdio.h>

static int on_progress(void *user, int64_t done, int64_t total)
{
    (void)user;
    fprintf(stderr, "\r%lld of %lld steps", (long long)done, (long long)total);
    return 0; /* anything else stops */
}

static int on_result(void *user, const kin_result *clip)
{
    kin_error err = {KIN_OK, 0, ""};
    if (kin_result_save(clip, user, &err) != KIN_OK)
        fprintf(stderr, "\n%s\n", err.text);
    return err.status != KIN_OK;
}

int main(int argc, char **argv)
{
    kin_generator *generator = NULL;
    kin_request request;
    kin_error err = {KIN_OK, 0, ""};
    kin_request_init(&request, sizeof request);
    request.prompt = argc > 2 ? argv[2] : "a red ball falls and bounces on a gray floor";
    request.user = argc > 3 ? argv[3] : "clip.mp4";
    request.progress = on_progress;
    request.result = on_result;
    if (kin_generator_create(argc > 1 ? argv[1] : "model", NULL, &generator, &err) == KIN_OK)
        kin_generator_run(generator, &request, &err);
    kin_generator_destroy(&generator);
    fprintf(stderr, "\n%s", err.text);
    return err.status != KIN_OK;
}
