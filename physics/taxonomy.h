/* physics/taxonomy.h: the 29 physical categories of WISA (arXiv 2503.08153): phrases, order,
 * questions, labels. The order below IS the index order of the prior vector, the classifier and the
 * heads of MoPA. */
#ifndef KIN_PHYSICS_TAXONOMY_H
#define KIN_PHYSICS_TAXONOMY_H

#include <stdbool.h>
#include <stddef.h>

enum {
    KIN_PHYS_CATEGORIES = 29, /* values of a prior vector */
    KIN_PHYS_QUESTIONS = 5,   /* q0 dynamics, q1 thermodynamics, q2 optics, q3 camera, q4 objects */
    KIN_PHYS_LABELS = 17,     /* categories that occur as dataset labels */
    KIN_PHYS_QUANTITIES =
        18 /* 5 x (lo,hi) density, then coefficient, exponent of time lo, hi, temperature lo, hi */
};

typedef enum kin_phys {
    KIN_PHYS_COLLISION = 0,
    KIN_PHYS_RIGID_BODY_MOTION,
    KIN_PHYS_ELASTIC_MOTION,
    KIN_PHYS_LIQUID_MOTION,
    KIN_PHYS_GAS_MOTION,
    KIN_PHYS_DEFORMATION,
    KIN_PHYS_NO_DYNAMICS,
    KIN_PHYS_MELTING,
    KIN_PHYS_SOLIDIFICATION,
    KIN_PHYS_VAPORIZATION,
    KIN_PHYS_LIQUEFACTION,
    KIN_PHYS_EXPLOSION,
    KIN_PHYS_COMBUSTION,
    KIN_PHYS_NO_THERMODYNAMICS,
    KIN_PHYS_REFLECTION,
    KIN_PHYS_REFRACTION,
    KIN_PHYS_SCATTERING,
    KIN_PHYS_INTERFERENCE,
    KIN_PHYS_UNNATURAL_LIGHT,
    KIN_PHYS_NO_OPTICS,
    KIN_PHYS_CAMERA_YES,
    KIN_PHYS_CAMERA_NO,
    KIN_PHYS_LIQUIDS_APPEAR,
    KIN_PHYS_SOLIDS_APPEAR,
    KIN_PHYS_GASES_APPEAR,
    KIN_PHYS_DECOMPOSITION,
    KIN_PHYS_MIXING,
    KIN_PHYS_DISAPPEARANCE,
    KIN_PHYS_NO_CHANGE
} kin_phys;

/* The exact phrase of category i ("rigid body motion"), or NULL if i is outside 0..28. */
const char *kin_phys_phrase(int i);
/* The phrase in Title Case as the dataset's labels write it ("Rigid Body Motion"), or NULL. */
const char *kin_phys_title(int i);
/* Question 0..4 that category i answers, or -1. */
int kin_phys_question(int i);
/* First category of question q and how many follow (7, 7, 6, 2, 7); -1 / 0 outside 0..4. */
int kin_phys_question_first(int q);
int kin_phys_question_count(int q);
/* Name of question q: "dynamics", "thermodynamics", "optics", "camera", "objects"; NULL outside. */
const char *kin_phys_question_name(int q);

/* Category index of the k-th of the 17 dataset labels (0-5, 7-12, 14-18), or -1. */
int kin_phys_label(int k);
bool kin_phys_is_label(int i);

typedef enum kin_phys_match {
    KIN_PHYS_MATCH_NONE = 0,
    KIN_PHYS_MATCH_EXACT, /* the phrase, or the Title Case label, letter for letter */
    KIN_PHYS_MATCH_LOOSE, /* other case, blanks around or doubled, trailing punctuation */
    KIN_PHYS_MATCH_ALIAS  /* a known other spelling ("Unnatural Light Sources", "liquid objects
                             appearance") */
} kin_phys_match;

/* The category that `name` means, or -1. *how (may be NULL) says how literally. */
int kin_phys_find(const char *name, kin_phys_match *how);

/* Other spellings of a category of question q that occur in `text` (lower case): the first entry k
 * >= from of the alias table, its spelling in *spelling; -1 when there is none.
 * kin_phys_alias_index gives its category. */
int kin_phys_find_alias_in(const char *text, int q, int from, const char **spelling);
int kin_phys_alias_index(int k);

/* "collision, rigid body motion": the set categories of one question (q 0..4), or of all that name
 * a phenomenon (q = -1: the 17 labels only), comma-separated, into buf (cut to fit). Returns buf.
 */
char *kin_phys_list(const float prior[KIN_PHYS_CATEGORIES], int q, char *buf, size_t bytes);

#endif
