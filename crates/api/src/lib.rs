//! Generated wire types of the doors and nothing else
