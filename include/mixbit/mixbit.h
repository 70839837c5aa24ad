/* SPDX-License-Identifier: Apache-2.0 */
/* Everything at once. The headers may be included one by one as well; each stands alone. */
#ifndef MIXBIT_MIXBIT_H
#define MIXBIT_MIXBIT_H

#include "codebook.h"
#include "device.h"
#include "format.h"
#include "integer.h"
#include "matmul.h"
#include "model.h"
#include "plan.h"
#include "profile.h"
#include "sensitivity.h"
#include "status.h"

/** "MAJOR.MINOR.PATCH" of the library that runs, a static string. */
#ifdef __cplusplus
extern "C"
#endif
    MB_API const char *
    mb_version(void);

#endif
