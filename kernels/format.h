/* SPDX-License-Identifier: Apache-2.0 */
/* What each family's file gives to the table in format.c: one mb_ops_<ID> per row of formats.def.
 */
#ifndef MIXBIT_KERNELS_FORMAT_H
#define MIXBIT_KERNELS_FORMAT_H

#include "kernels/panel.h"

#define MB_FORMAT_ROW(id, ...) extern const struct mb_format_ops mb_ops_##id;
#include "mixbit/formats.def"

#endif
