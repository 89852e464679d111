// Every ISA level against the portable one with many seeds, the geometry rules, and dispatch.
#include <gtest/gtest.h>

#include <cstdlib>

#include "kernels/dispatch.h"
#include "ops/common.h"
#include "ops/level_checks.h"

namespace {

TEST(Levels, EqualThePortableOne) {
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    for (uint32_t seed = 1; seed <= 60; ++seed) {
      for (const bqc::LevelCheck& check : bqc::compare_levels(bqc::portable::kKernels, *set, seed)) {
        EXPECT_TRUE(check.same) << set->name << ", seed " << seed << ": " << check.what;
      }
    }
  }
}

TEST(Levels, ReportADifference) {
  bqc::RowKernels rows = *bqc::portable::kKernels.rows;
  rows.sum_codes = [](const uint8_t*, int64_t) { return -1; };
  const bqc::KernelSet wrong = {"wrong", "nothing", &rows, bqc::portable::kKernels.gemm};
  int failures = 0;
  for (const bqc::LevelCheck& check : bqc::compare_levels(bqc::portable::kKernels, wrong, 1))
    failures += !check.same;
  EXPECT_GT(failures, 0);
}

TEST(Geometry, CountsBlocksInsideGroups) {
  EXPECT_EQ(bqc::make_geometry(768, 64, 0).count, 12);
  EXPECT_EQ(bqc::make_geometry(312, 64, 0).count, 5);
  EXPECT_EQ(bqc::make_geometry(312, 16, 26).count, 24);
  EXPECT_EQ(bqc::make_geometry(26, 4096, 0).count, 1);
  EXPECT_THROW(bqc::make_geometry(100, 16, 26), bqc::Error);
  EXPECT_THROW(bqc::make_geometry(0, 16, 0), bqc::Error);
  EXPECT_EQ(bqc::block_count(-1, 64, 0), -1);
}

TEST(Dispatch, ObeysTheCap) {
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    setenv("BQC_MAX_ISA", set->name, 1);
    EXPECT_EQ(bqc::choose_kernels().set, set);
  }
  unsetenv("BQC_MAX_ISA");
  EXPECT_EQ(bqc::choose_kernels().set, bqc::runnable_kernels().back());
}

TEST(Dispatch, PassesOverLevelsWithoutTheFormat) {
  for (const int64_t bits : {8, 6, 4}) {
    EXPECT_EQ(bqc::choose_kernels(bits).set, bqc::runnable_kernels().back()) << bits;
  }
  const bqc::Choice none = bqc::choose_kernels(5);
  EXPECT_EQ(none.set, &bqc::portable::kKernels);
  if (bqc::runnable_kernels().size() > 1) {
    EXPECT_NE(none.reason.find("has no 5-bit weights"), std::string::npos) << none.reason;
  }
}

TEST(Peaks, AreThoseOfRunnableLevels) {
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    const bqc::PeakLoops* loops = bqc::peak_loops(set->name);
    ASSERT_NE(loops, nullptr) << set->name;
    EXPECT_GT(bqc::peak_gmacs(loops->int8, 0.01), 0.0) << set->name;
    EXPECT_GT(bqc::peak_gmacs(loops->fp32, 0.01), 0.0) << set->name;
  }
  EXPECT_EQ(bqc::peak_loops("none"), nullptr);
}

}  // namespace
