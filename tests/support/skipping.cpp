// One test that is skipped, for skips_test.py.

#include <gtest/gtest.h>

namespace {

TEST(Skipping, Runs) { EXPECT_TRUE(true); }
TEST(Skipping, NeedsWhatIsNotThere) { GTEST_SKIP() << "there is no moon; wait"; }

}  // namespace
