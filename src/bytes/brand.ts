declare const brand: unique symbol;

/** A type that only a cast makes: numbers of one kind cannot be passed for those of another. No cost at run time. */
export type Brand<T, Name extends string> = T & { readonly [brand]: Name };
