// Operators driven through a small stand-in for ONNX Runtime, so that sanitizers see all of them: many
// threads on one kernel, every ISA level, and nodes that are wrong in thousands of ways.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "bqc_ort.h"
#include "kernels/dispatch.h"
#include "op_cases.h"
#include "rounds.h"

namespace fake {
namespace {

struct Size {
  int64_t batch, tokens, heads, width;
  int bits;
};

// Rows by columns and rows by rows, several panels, odd heads, odd ends.
const Size kSizes[] = {{1, 1, 1, 16, 8},   {2, 5, 2, 26, 6}, {1, 37, 3, 32, 4}, {3, 70, 2, 32, 8},
                       {2, 130, 1, 64, 6}, {0, 4, 2, 16, 8}, {2, 9, 2, 26, 2},  {2, 9, 2, 38, 3}};

TEST(Operators, AllHaveCases) {
  Random random(1);
  std::set<std::string> covered;
  for (const Case& node : cases(random, 1, 2, 1, 16, 8)) covered.insert(node.op);
  for (const std::string& name : operators()) EXPECT_TRUE(covered.count(name)) << name;
  EXPECT_EQ(covered.size(), operators().size());
}

TEST(Operators, SameBitsFromManyThreads) {
  Random random(1);
  for (const Size& size : kSizes) {
    for (const Case& node : cases(random, size.batch, size.tokens, size.heads, size.width, size.bits)) {
      const Session session(node);
      ASSERT_EQ(session.error(), "") << node.op;
      const Result expected = session.run(node.inputs, 1);
      ASSERT_EQ(expected.error, "") << node.op;
      std::vector<std::thread> callers;
      std::atomic<int> wrong{0};
      for (int caller = 0; caller < 3; ++caller) {
        callers.emplace_back([&] {
          for (int i = 0; i < 3; ++i) wrong += !(session.run(node.inputs, 3).outputs == expected.outputs);
        });
      }
      for (std::thread& thread : callers) thread.join();
      EXPECT_EQ(wrong, 0) << node.op << " on " << size.tokens << " tokens";
    }
  }
}

TEST(Operators, SameBitsAtEveryLevel) {
  for (const Size& size : kSizes) {
    Random random(2);
    const auto all = cases(random, size.batch, size.tokens, size.heads, size.width, size.bits);
    for (const Case& node : all) {
      std::vector<Array> expected;
      for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
        setenv("BQC_MAX_ISA", set->name, 1);
        const Result result = Session(node).run(node.inputs, 2);
        if (expected.empty()) expected = result.outputs;
        EXPECT_TRUE(result.outputs == expected) << node.op << " at " << set->name;
      }
    }
  }
  unsetenv("BQC_MAX_ISA");
}

TEST(Operators, RefuseOrRunWhatIsSpoiled) {
  const std::vector<const bqc::KernelSet*> levels = bqc::runnable_kernels();
  int refused = 0, failed = 0, ran = 0;
  for (int seed = 0; seed < rounds(1000); ++seed) {
    Random random(static_cast<uint32_t>(seed));
    setenv("BQC_MAX_ISA", levels[static_cast<size_t>(seed) % levels.size()]->name, 1);
    const Size& size = kSizes[between(random, 0, 2)];
    std::vector<Case> all = cases(random, size.batch, size.tokens, size.heads, size.width, size.bits);
    Case& node = all[static_cast<size_t>(between(random, 0, all.size() - 1))];
    for (int64_t n = between(random, 1, 3); n > 0; --n) spoil(random, node);
    infer(node);
    const Session session(node);
    if (!session.error().empty()) {
      // Says where: operator, and node unless there was none to ask.
      EXPECT_EQ(session.error().rfind("ai.bqc::" + node.op + ": node 'the " + node.op + "': ", 0), 0u)
          << session.error();
      ++refused;
      continue;
    }
    const Result result = session.run(node.inputs, 2);
    ++(result.error.empty() ? ran : failed);
    if (!result.error.empty()) {
      EXPECT_EQ(result.error.rfind("ai.bqc::" + node.op + " 'the " + node.op + "': ", 0), 0u) << result.error;
    }
  }
  unsetenv("BQC_MAX_ISA");
  RecordProperty("refused", refused);
  std::printf("%d refused at creation, %d at the run, %d ran\n", refused, failed, ran);
  EXPECT_GT(refused, 0);
  EXPECT_GT(failed, 0);
  EXPECT_GT(ran, 0);
}

TEST(Operators, ThreadsComeAndGo) {
  Random random(3);
  const auto all = cases(random, 2, 40, 2, 32, 8);
  for (int i = 0; i < 30; ++i) {
    for (const Case& node : all) {
      std::thread([&] { EXPECT_EQ(Session(node).run(node.inputs, 2).error, ""); }).join();
    }
  }
}

TEST(Threads, AreAsManyAsCome) {
  bqc::Threads threads;
  const int64_t cpus = threads.likely();
  EXPECT_GE(cpus, 1);
  const auto after_loops = [&](int64_t tasks, int64_t came) {
    for (int i = 0; i < 8; ++i) threads.note(tasks, came);
    return threads.likely();
  };
  EXPECT_EQ(after_loops(3, 1), cpus);  // too few tasks to tell
  EXPECT_EQ(after_loops(4, 1), std::min<int64_t>(cpus, 2));
  EXPECT_EQ(after_loops(100, 3), cpus);  // seven loops after the first of three
  EXPECT_EQ(after_loops(100, 2), std::min<int64_t>(cpus, 3));
  threads.note(4, 4);
  EXPECT_EQ(threads.likely(), cpus);
  // Work cut for two threads does not show that there are more.
  int told = 0;
  for (int i = 0; i < 5000; ++i) {
    const int64_t tasks = 4 * threads.likely();
    told += threads.likely() == cpus;
    threads.note(tasks, std::min<int64_t>(2, tasks));
  }
  EXPECT_GT(told, 4 * 8 - 1);
  EXPECT_EQ(after_loops(100, 2), std::min<int64_t>(cpus, 2));
}

// Where work is cut changes once a kernel knows its threads.
TEST(Threads, ChangeNoBits) {
  Random random(5);
  for (const Case& node : cases(random, 1, 4, 4, 32, 8)) {
    const Session session(node);
    const Result expected = session.run(node.inputs, 2);
    for (int i = 0; i < 12; ++i) EXPECT_EQ(session.run(node.inputs, 2).outputs, expected.outputs) << node.op;
  }
}

TEST(Inference, TellsShapes) {
  Random random(1);
  for (const Case& node : cases(random, 2, 5, 2, 32, 8)) {
    const Result result = Session(node).run(node.inputs, 1);
    const std::vector<std::string> told = infer(node);
    ASSERT_EQ(told.size(), result.outputs.size()) << node.op;
    for (size_t i = 0; i < told.size(); ++i) {
      std::string text = std::to_string(static_cast<int>(result.outputs[i].type)) + ":";
      for (const int64_t d : result.outputs[i].dims) text += " " + std::to_string(d);
      EXPECT_EQ(told[i], text) << node.op << " output " << i;
    }
  }
}

TEST(Registration, ServesSeveralRuntimesAndThreads) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] { EXPECT_EQ(register_with(base()), operators().size()); });
  }
  for (std::thread& thread : threads) thread.join();
  // A runtime that is too old is told so through the oldest table.
  bqc::ort::ApiBase old = base();
  static const auto table = old.table;
  old.table = [](uint32_t level) { return level == 1 ? table(level) : nullptr; };
  EXPECT_EQ(register_with(old), 0u);
}

}  // namespace
}  // namespace fake
