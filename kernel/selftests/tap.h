/* SPDX-License-Identifier: GPL-2.0-only */
/* Results of selftests in the TAP format that kselftest reads (Documentation/dev-tools/ktap.rst). */
#ifndef TAP_H
#define TAP_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KSFT_SKIP 4

static int tap_run, tap_failed;

static inline void tap_plan(int tests)
{
	setlinebuf(stdout);
	printf("TAP version 13\n1..%d\n", tests);
}

static inline void tap(bool ok, const char *name)
{
	int error = errno;

	printf("%s %d %s\n", ok ? "ok" : "not ok", ++tap_run, name);
	if (!ok) {
		printf("# errno %d: %s\n", error, strerror(error));
		tap_failed++;
	}
}

/* Nothing can be tested at all. */
static inline void tap_skip_all(const char *why)
{
	printf("TAP version 13\n1..0 # SKIP %s\n", why);
	exit(KSFT_SKIP);
}

static inline int tap_end(void)
{
	printf("# Totals: pass:%d fail:%d\n", tap_run - tap_failed, tap_failed);
	return tap_failed != 0;
}

#endif
