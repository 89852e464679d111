// Small nodes of zeros, and what operators say of those that do not fit.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "fake_ort.h"

namespace fake {

inline Array zeros(Type type, std::vector<int64_t> dims) {
  Array array(type, std::move(dims));
  std::memset(array.data.get(), 0, array.bytes());
  return array;
}

// Why a node got no kernel, or why its run failed; empty where it ran.
inline std::string refusal(const Case& node) {
  const Session session(node);
  return session.error().empty() ? session.run(node.inputs, 1).error : session.error();
}

inline void expect_refusal(const Case& node, const std::string& what) {
  const std::string said = refusal(node);
  EXPECT_NE(said.find(what), std::string::npos) << said << " should tell of " << what;
}

// The node with an input of zeros, of its type and of other dimensions.
inline Case with_dims(Case node, size_t input, std::vector<int64_t> dims) {
  node.inputs[input] = zeros(node.inputs[input].type, std::move(dims));
  return node;
}

inline Case with_attribute(Case node, const char* name, Attribute value) {
  node.attributes[name] = std::move(value);
  return node;
}

}  // namespace fake
