#include "examples/dreambooth/sha1.h"

#include <string>

#include <gtest/gtest.h>

namespace {

// The digests of Python's hashlib.sha1.
TEST(Sha1, DigestsAreThoseOfTheStandard) {
  EXPECT_EQ(sha1_hex(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  EXPECT_EQ(sha1_hex("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(sha1_hex(std::string(55, 'a')), "c1c8bbdc22796e28c0e15163d20899b65621d65a");
  EXPECT_EQ(sha1_hex(std::string(56, 'a')), "c2db330f6083854c99d4b5bfb6e8f29f201be699");
  EXPECT_EQ(sha1_hex(std::string(1000, '\xff')), "c2fbe7c95d9be373d9bb6ee58fb3a24411e1a2a8");
}

}  // namespace
