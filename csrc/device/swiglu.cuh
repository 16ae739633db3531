// SwiGLU and its gradient, one element at a time, in the reference's operations.
#pragma once
#include "numeric.cuh"

namespace millet {

__device__ __forceinline__ float swiglu(float gate, float up) { return gate * sigmoid(gate) * up; }

// Of one element, given h and dA', the gradient of a before the weight. A weight of 0 gives 0, whatever it would be
// multiplied by.
template <typename T> struct SwigluBackward {
    float gate, up;    // dh
    float weighted_a;  // w·a
    float dot;         // dA'·a, this element's part of the weight's gradient
    __device__ __forceinline__ SwigluBackward(float weight, float gradient, float h_gate, float h_up) {
        float s = sigmoid(h_gate);
        float silu = h_gate * s;
        float a = widen(narrow<T>(silu * h_up));
        float d = weight * gradient;
        bool out = weight == 0.0f;
        weighted_a = out ? 0.0f : weight * a;
        dot = gradient * a;
        gate = out ? 0.0f : d * h_up * (s * (1.0f + h_gate * (1.0f - s)));
        up = out ? 0.0f : d * silu;
    }
};

}  // namespace millet
