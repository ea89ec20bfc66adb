/* tests/faults/hook.c: linked into the program kinema_faults (kinema otherwise unchanged): the k-th
 * allocation of kinema or of the JSON library fails, k from KIN_FAULT_ALLOC (0: none). The number
 * of allocations goes into the file KIN_FAULT_COUNT. Works under AddressSanitizer, where malloc
 * itself cannot be replaced. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <cjson/cJSON.h>

#include "base/alloc.h"

__attribute__((constructor)) static void begin(void)
{
    cJSON_Hooks hooks = {kin_malloc, kin_free};
    const char *k = getenv("KIN_FAULT_ALLOC");
    cJSON_InitHooks(&hooks);
    if (k)
        kin_alloc_fail_at(strtoull(k, NULL, 10));
}

__attribute__((destructor)) static void end(void)
{
    const char *path = getenv("KIN_FAULT_COUNT");
    FILE *fp = path ? fopen(path, "w") : NULL;
    if (!fp)
        return;
    fprintf(fp, "%" PRIu64 "\n", kin_alloc_count());
    fclose(fp);
}
