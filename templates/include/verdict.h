// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* What a stage of the XDP chain returns. */
#ifndef KB_VERDICT_H
#define KB_VERDICT_H

/* "Not mine": the next stage decides. Any XDP_* value instead ends the chain. */
#define KB_CONTINUE (-1)

#endif
