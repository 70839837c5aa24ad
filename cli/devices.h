/* SPDX-License-Identifier: Apache-2.0 */
/* What `probe` says of the devices behind the table of backends. */
#ifndef MIXBIT_CLI_DEVICES_H
#define MIXBIT_CLI_DEVICES_H

#include "cli/cli.h"

void mb_devices_print(FILE *out);
json_t *mb_devices_json(void);

#endif
