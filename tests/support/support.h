/* tests/support/support.h: shared by all test programs. Includes cmocka's prerequisites in their
 * order. */
#ifndef KIN_TESTS_SUPPORT_H
#define KIN_TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/status.h"

/* The folders named by KINEMA_GOLDEN and KINEMA_DATA, or NULL. */
const char *kin_test_golden_dir(void);
const char *kin_test_data_dir(void);

/* Asserts KIN_OK and prints err's text otherwise. */
#define assert_ok(call, err)                                                    \
    do {                                                                        \
        kin_status st_ = (call);                                                \
        if (st_ != KIN_OK)                                                      \
            fail_msg("%s -> %s: %s", #call, kin_status_name(st_), (err)->text); \
    } while (0)

#endif
