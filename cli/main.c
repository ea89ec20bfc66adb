#include <stdio.h>

int main(void)
{
    puts("kinema");
    return 0;
}
