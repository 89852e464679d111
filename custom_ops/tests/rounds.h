// How long the tests on random inputs run.
#pragma once

#include <cstdlib>

// Of a test's usual rounds the share that BQC_TEST_ROUNDS has of 1000, and at least one.
inline int rounds(int usual) {
  const char* text = std::getenv("BQC_TEST_ROUNDS");
  const long share = text ? std::atol(text) : 1000;
  return share * usual < 1000 ? 1 : static_cast<int>(share * usual / 1000);
}
