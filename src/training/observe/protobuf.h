#pragma once

// Writes messages in the wire format of protocol buffers, as far as event files need it
// (https://protobuf.dev/programming-guides/encoding).

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace diffusers {
inline namespace internal {

/// Builds the bytes of a message field by field. A message inside another one is written as its bytes.
class ProtoMessage {
 public:
  ProtoMessage& integer(int field, int64_t value) {
    tag(field, 0);
    // Negative numbers take ten bytes in this format.
    varint(static_cast<uint64_t>(value));
    return *this;
  }
  ProtoMessage& real(int field, double value) {
    tag(field, 1);
    fixed(std::bit_cast<uint64_t>(value), 8);
    return *this;
  }
  ProtoMessage& real32(int field, float value) {
    tag(field, 5);
    fixed(std::bit_cast<uint32_t>(value), 4);
    return *this;
  }
  ProtoMessage& text(int field, std::string_view bytes) {
    tag(field, 2);
    varint(bytes.size());
    bytes_ += bytes;
    return *this;
  }
  ProtoMessage& message(int field, const ProtoMessage& inner) { return text(field, inner.bytes_); }
  /// Adds a packed repeated double.
  ProtoMessage& reals(int field, const std::vector<double>& values) {
    tag(field, 2);
    varint(8 * values.size());
    for (const double value : values) fixed(std::bit_cast<uint64_t>(value), 8);
    return *this;
  }

  const std::string& bytes() const { return bytes_; }

 private:
  void tag(int field, int wire_type) {
    varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire_type));
  }
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  void fixed(uint64_t value, int count) {
    for (int i = 0; i < count; ++i) bytes_ += static_cast<char>(value >> (8 * i));
  }

  std::string bytes_;
};

}  // namespace internal
}  // namespace diffusers
