-- Triton kernels that a timed call launches, as JSON text of records.LaunchedKernel; null where nobody looked.
alter table outcome add column kernels varchar;
