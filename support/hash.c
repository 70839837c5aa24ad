/* SPDX-License-Identifier: Apache-2.0 */
/* Content keys: XXH3-128, written as 32 hex digits with the most significant byte first (xxhsum
 * -H128's spelling). They tell files and devices apart; they are no defence against someone who
 * wants a collision. */
#include "support/support.h"

#include <xxhash.h>

void mb_hash_bytes(const void *data, size_t bytes, char hex[33])
{
    static const char digits[] = "0123456789abcdef";
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, bytes));
    for (size_t i = 0; i < sizeof canonical.digest; i++) {
        hex[2 * i] = digits[canonical.digest[i] >> 4];
        hex[2 * i + 1] = digits[canonical.digest[i] & 15];
    }
    hex[32] = '\0';
}
