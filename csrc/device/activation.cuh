// Activations: a of gate and up and its gradient, one element at a time, in the reference's operations and their order
// (src/cpu/activation.rs), so that a has the same bits. Another one is a struct and a case of `with_activation`.
#pragma once
#include "../params.h"
#include "numeric.cuh"

namespace millet {

struct SwiGlu {
    __device__ __forceinline__ float value(float gate, float up) const { return gate * sigmoid(gate) * up; }

    // The same value; gate and up become their gradients, `grad` being that of a.
    __device__ __forceinline__ float backward(float grad, float &gate, float &up) const {
        float s = sigmoid(gate);
        float silu = gate * s;
        float a = silu * up;
        gate = grad * up * (s * (1.0f + gate * (1.0f - s)));
        up = grad * silu;
        return a;
    }
};

struct ClampedSwiGlu {
    float alpha, limit, offset;

    // NaN stays what it is.
    __device__ __forceinline__ float below(float value) const { return value > limit ? limit : value; }
    __device__ __forceinline__ float between(float value) const { return value < -limit ? -limit : below(value); }

    __device__ __forceinline__ float value(float gate, float up) const {
        gate = below(gate);
        return gate * sigmoid(alpha * gate) * (between(up) + offset);
    }

    // The gradient passes at the limit and is 0 beyond it.
    __device__ __forceinline__ float backward(float grad, float &gate, float &up) const {
        bool gate_clamped = gate > limit, up_clamped = up > limit || up < -limit;
        float g = below(gate), factor = between(up) + offset;
        float scaled = alpha * g;
        float s = sigmoid(scaled);
        float silu = g * s;
        gate = gate_clamped ? 0.0f : grad * factor * (s * (1.0f + scaled * (1.0f - s)));
        up = up_clamped ? 0.0f : grad * silu;
        return silu * factor;
    }
};

// Calls each(activation) with the one that is chosen: a branch that the whole grid takes alike, so put the loop over
// elements inside.
template <class Each> __device__ __forceinline__ void with_activation(const MilletActivation &activation, Each each) {
    if (activation.kind == MILLET_CLAMPED_SWIGLU)
        each(ClampedSwiGlu{activation.alpha, activation.limit, activation.offset});
    else each(SwiGlu{});
}

// Of one element, given h and dA', the gradient of a before the weight: gate and up become dh, `weighted_a` w·a;
// returns dA'·a, this element's part of the weight's gradient. A weight of 0 gives 0, whatever it would be multiplied
// by.
template <typename T, class Activation>
__device__ __forceinline__ float activation_backward(const Activation &activation, float weight, float gradient,
                                                     float &gate, float &up, float &weighted_a) {
    float a = widen(narrow<T>(activation.backward(weight * gradient, gate, up)));
    weighted_a = weighed(weight, a);
    if (weight == 0.0f) gate = up = 0.0f;
    return gradient * a;
}

}  // namespace millet
