#include "tests/support/support.h"

#include <stdlib.h>

const char *kin_test_golden_dir(void)
{
    return getenv("KINEMA_GOLDEN");
}

const char *kin_test_data_dir(void)
{
    return getenv("KINEMA_DATA");
}
