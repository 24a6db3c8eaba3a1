// What the kernels of Newton-Schulz iterations are told of matrices and products. The host's side is in src/cuda/table.rs and
// src/cuda/orthogonal.rs; both check sizes.
#pragma once

#include "table.cuh"

// A matrix that is orthogonalised.
struct __align__(16) Orthogonal {
    u8 *strips;         // the normalised estimate, 16-bit
    double margin;      // factor on its norm
    u32 matrix;         // its gradient, momentum, shape
    u32 rows, columns;
    u32 first_square;   // its partial sums of squares, one for each 64 x 64 tile
    u32 tiles;
    u32 first_job, jobs;  // of the safe iteration
    u8 half;            // f16, not bf16
    u8 lmo_first;       // the gradient is orthogonalised, and momentum comes after
    u8 groups;          // whether four elements of a row lie at boundaries in every buffer
    u8 pad;
};
static_assert(sizeof(Orthogonal) == 48, "the host writes 48 bytes a matrix");

// How far a matrix has come, on the device alone.
struct __align__(16) Progress {
    u32 looked;   // tiles whose squares are there
    u32 guarded;  // tiles of the product that the guard looks at
    u32 failed;   // the iteration would leave its bound: the safe one takes its place
    u32 ticket;   // tiles of the safe iteration that somebody has taken
    u32 done;     // and finished
    u32 pad[3];
};
static_assert(sizeof(Progress) == 32, "the host reserves 32 bytes a matrix");

// Which way operands lie. The sum runs over the columns of both (a b^T), the columns of a and the rows of b (a b), or the rows
// of both (a^T b).
enum Form : u8 { BY_ROWS = 0, MIXED = 1, BY_COLUMNS = 2 };

// alpha a b + beta c + beta2 c2 + gamma I.
struct __align__(16) Job {
    const u8 *a, *b, *c, *c2;
    u8 *d;               // none: the parameter is updated with the result
    u32 m, n, k;         // rows and columns of the result, terms of a sum
    u32 orthogonal;      // of which matrix
    float alpha, beta, beta2, gamma;
    float polynomial[3];  // the guard's: of the iteration that the result belongs to
    float limit;          // on the squares of the whole result
    u32 first_tile;       // of the safe iteration: tiles of the products before
    u32 tiles;
    u32 first_partial;  // the guard's
    Form form;
    u8 symmetric;  // tiles above the diagonal are mirrored
    u8 guards;
    u8 pad;
    u32 first_moved;  // of the last product: what its tiles moved by
    u32 first_segment;  // the matrix's, which says whether it is skipped
};
static_assert(sizeof(Job) == 112, "the host writes 112 bytes a product");

// A tile of 128 x 128 of a product's result.
struct __align__(8) Tile {
    u32 job;
    u16 row, column;
};
static_assert(sizeof(Tile) == 8, "the host writes 8 bytes a tile");

// The tile's shares of the traces of the powers 1 to 4 of the matrix that the guard looks at.
struct __align__(16) Traces {
    double power[4];
};
