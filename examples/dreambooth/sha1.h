#pragma once

#include <string>
#include <string_view>

/// Computes the SHA-1 digest of bytes (FIPS 180-4), which names the class images as Python's scripts do.
/// @return 40 hexadecimal digits
std::string sha1_hex(std::string_view bytes);
