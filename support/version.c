/* SPDX-License-Identifier: Apache-2.0 */
/* The version of the library that runs. The build defines MIXBIT_VERSION from the one place that
 * holds it, project() in CMakeLists.txt. */
#include "mixbit/mixbit.h"

const char *mb_version(void) { return MIXBIT_VERSION; }
