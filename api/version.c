#include <kinema/kinema.h>

const char *kin_version(void)
{
    return KIN_VERSION;
}
