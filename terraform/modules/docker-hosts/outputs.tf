output "instance_group" {
  description = "The hosts, as a managed instance group."
  value       = google_compute_region_instance_group_manager.this.instance_group
}
